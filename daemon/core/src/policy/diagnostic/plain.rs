//! Messages of the TOML reader in words that need no knowledge of this program: no `struct RawCheck`, no `map`.
//!
//! Policies do not need it: they are read field by field. Catalogues and the configuration are read by serde.

use super::nearest;

/// The message, and a suggestion where a name is nearly right.
pub(super) fn plain(message: &str) -> (String, Option<String>) {
    let text = match message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: ")) {
        Some(rest) => match rest.rsplit_once(", expected ") {
            Some((found, wanted)) => format!("expected {}, found {}", wanted_words(wanted), found_words(found)),
            None => message.to_owned(),
        },
        None if message == "wanted string or table" => "expected a name in quotes".to_owned(),
        None => message.replacen("unknown variant", "unknown name", 1),
    };
    (text, suggestion(message))
}

/// A suggestion out of "unknown field `x`, expected one of `a`, `b`" and its like.
fn suggestion(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    nearest(word, quoted).map(|near| format!("did you mean `{near}`?"))
}

fn wanted_words(wanted: &str) -> String {
    match wanted {
        "a string" | "string" | "str" => "a text in quotes".to_owned(),
        "a sequence" => "a list in brackets".to_owned(),
        "a map" => "a table".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "path string" => "a path in quotes".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other if other.starts_with("enum ") || other.contains("variant") => "a name in quotes".to_owned(),
        other if other.starts_with("a sequence of ") || other.starts_with("tuple ") => "a list in brackets".to_owned(),
        other => other.to_owned(),
    }
}

fn found_words(found: &str) -> String {
    let quoted = |kind: &str| found.strip_prefix(kind).map(|value| value.trim().trim_matches('"').trim_matches('`'));
    match found {
        "map" => return "a table".to_owned(),
        "sequence" => return "a list".to_owned(),
        _ => {}
    }
    if let Some(text) = quoted("string") {
        format!("the text {}", super::quote(text))
    } else if let Some(number) = quoted("integer").or_else(|| quoted("floating point")) {
        format!("the number `{number}`")
    } else if let Some(value) = quoted("boolean") {
        format!("`{value}`")
    } else {
        found.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        _number: u32,
        _list: Vec<String>,
        _table: Inner,
        _choice: Choice,
        _flag: bool,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        _text: String,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Choice {
        ResetGpu,
        Nothing,
    }

    #[test]
    fn no_message_names_types_of_the_program() {
        let read = |text: &str| plain(toml::from_str::<Raw>(text).err().unwrap().message());
        for (text, expected) in [
            ("_number = \"x\"", "expected a whole number, 0 or more, found the text `x`"),
            ("_number = -1", "expected a whole number, 0 or more, found the number `-1`"),
            ("_number = 1.5", "expected a whole number, 0 or more, found the number `1.5`"),
            ("_number = []", "expected a whole number, 0 or more, found a list"),
            ("_number = {}", "expected a whole number, 0 or more, found a table"),
            ("_list = 3", "expected a list in brackets, found the number `3`"),
            ("_list = [3]", "expected a text in quotes, found the number `3`"),
            ("_table = 3", "expected a table, found the number `3`"),
            ("_table = {}", "missing field `_text`"),
            ("_choice = \"reset\"", "unknown name `reset`, expected `reset-gpu` or `nothing`"),
            ("_choice = 3", "a name in quotes"),
            ("_flag = \"yes\"", "expected true or false, found the text `yes`"),
        ] {
            let (message, _) = read(text);
            assert!(message.contains(expected), "{text}: {message}");
            for word in ["struct", "Raw", "Inner", "enum", "variant", "map", "sequence", "u32", "invalid type"] {
                assert!(!message.contains(word), "{text}: {message}");
            }
        }
        let _used = (Choice::ResetGpu, Choice::Nothing);
        assert_eq!(read("_nubmer = 1").1.as_deref(), Some("did you mean `_number`?"));
    }
}
