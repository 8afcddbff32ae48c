//! Text that somebody else wrote, made harmless: a run must not be able to move the cursor of the engineer who reads about it, nor to
//! write what that engineer does not see.

use regex::Regex;
use std::sync::LazyLock;

/// By the categories of Unicode: control and format characters, line and paragraph separators, private ones and those that are not
/// assigned. And what a terminal shows as nothing, such as the fillers of Hangul.
static HIDDEN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\p{Default_Ignorable_Code_Point}]").ok());

/// Whether a terminal would show nothing for it, or act upon it.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_control();
    }
    // Were the pattern not valid, everything beyond ASCII would be spelled out.
    HIDDEN.as_ref().is_none_or(|hidden| hidden.is_match(c.encode_utf8(&mut [0; 4])))
}

/// White space becomes a blank; other control, format, private and invisible characters are spelled out.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' | '\r' => out.push(' '),
            c if is_hidden(c) => out.extend(c.escape_default()),
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
        assert_eq!(clean("नमस्ते, é e\u{301}, 🚀"), "नमस्ते, é e\u{301}, 🚀", "combining marks and emoji are seen");
    }

    #[test]
    fn what_a_terminal_does_not_show_is_spelled_out() {
        let hidden = [
            0xad, 0x61c, 0x180e, 0x200b, 0x200f, 0x2028, 0x2029, 0x202e, 0x2060, 0x2064, 0x2066, 0x206a, 0xfeff,
            0xfff9, 0x110bd, 0x1d173, 0xe0001, 0xe0041, // formats and separators
            0x115f, 0x1160, 0x3164, 0xffa0, 0x34f, 0xfe00, 0xe0100, // fillers, joiners and selectors
            0xe000, 0xf0000, 0x378, 0xfdd0, 0xffff, 0x10ffff, // private, not assigned, no characters
        ];
        for c in hidden.map(|c| char::from_u32(c).unwrap()) {
            assert_eq!(clean(&format!("a{c}b")), format!("a\\u{{{:x}}}b", u32::from(c)));
        }
    }
}
