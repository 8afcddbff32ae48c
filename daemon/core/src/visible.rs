//! Text that somebody else wrote, made harmless: a run must not be able to move the cursor of the engineer who reads about it.

/// White space becomes a blank; other control and direction characters are spelled out.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' | '\r' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

/// The beginning of a text: `bytes` at most, and no part of a character.
pub fn beginning(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The text. A longer one than `bytes` ends there, with `...` behind it.
pub fn shortened(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        assert_eq!(
            (beginning("測試", 4), beginning("測試", 3), beginning("ab", 9), beginning("ab", 0)),
            ("測", "測", "ab", "")
        );
    }

    #[test]
    fn only_a_text_that_is_cut_has_dots_behind_it() {
        let cut = |text: &str| shortened(text.to_owned(), 4);
        assert_eq!((cut("abcd").as_str(), cut("abcde").as_str(), cut("測試").as_str()), ("abcd", "abcd...", "測..."));
    }

    #[test]
    fn a_run_cannot_write_on_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\u{7f}"), "a\\u{1b}[2Jb c\\u{9b}d\\u{202e}e\\u{7f}");
        assert_eq!(clean("Grüße, 測試 ─ ok"), "Grüße, 測試 ─ ok");
    }
}
