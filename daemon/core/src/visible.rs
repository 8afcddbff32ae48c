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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_cannot_write_on_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\u{7f}"), "a\\u{1b}[2Jb c\\u{9b}d\\u{202e}e\\u{7f}");
        assert_eq!(clean("Grüße, 測試 ─ ok"), "Grüße, 測試 ─ ok");
    }
}
