//! JSON as statements use it: no floats, no duplicate keys, nothing behind the value; and the canonical text that digests are
//! made over (RFC 8785, JCS).
//!
//! Invariant: two equal values have one canonical text, and the canonical text of a value reads back as that value. Integers
//! beyond 2^53 - 1 are refused, as other readers would round them: such numbers are written as text.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use std::{collections::BTreeMap, fmt, fmt::Write};

/// The largest integer that every reader of JSON keeps exactly.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;

/// A value without floats.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Json {
    /// `null`: known to be absent.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer, at most [`MAX_INTEGER`] either way.
    Int(i64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object.
    Map(BTreeMap<String, Json>),
}

/// Why bytes are no JSON that is accepted here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Too large.
    #[error("it has {bytes} bytes, expected at most {most}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Two values under one key: readers would differ in which they take.
    #[error("duplicate key: {0}")]
    DuplicateKey(String),
    /// Bytes behind the value.
    #[error("there are bytes behind the end of the JSON value")]
    Trailing,
    /// A number that other readers would round.
    #[error("a number is not an integer of at most 2^53 - 1: {0}")]
    Number(String),
    /// Anything else.
    #[error("it is not valid JSON: {0}")]
    Syntax(String),
    /// JSON, but not of the expected form.
    #[error("it does not have the expected form: {0}")]
    Form(String),
}

const DUPLICATE: &str = "duplicate key";
const NUMBER: &str = "not an integer";

impl Json {
    /// Reads exactly one value.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn parse(bytes: &[u8], most: usize) -> Result<Json, JsonError> {
        if bytes.len() > most {
            return Err(JsonError::TooLarge { bytes: bytes.len(), most });
        }
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Json>();
        let first = values.next().unwrap_or_else(|| Err(serde::de::Error::custom("it is empty")));
        let value = first.map_err(|error| {
            let text = error.to_string();
            let rest = |mark: &str| text.strip_prefix(mark).map(|rest| rest.trim().to_owned());
            let duplicate = rest(DUPLICATE).map(JsonError::DuplicateKey);
            duplicate.or_else(|| rest(NUMBER).map(JsonError::Number)).unwrap_or(JsonError::Syntax(text))
        })?;
        // One line end is allowed, as editors and shells write it; nothing else is.
        match &bytes[values.byte_offset()..] {
            b"" | b"\n" => Ok(value),
            _ => Err(JsonError::Trailing),
        }
    }

    /// The canonical text (RFC 8785).
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Int(n) => {
                let _always = write!(out, "{n}");
            }
            Json::Text(text) => write_text(out, text),
            Json::List(list) => {
                for (n, value) in list.iter().enumerate() {
                    out.push(if n == 0 { '[' } else { ',' });
                    value.write(out);
                }
                out.push_str(if list.is_empty() { "[]" } else { "]" });
            }
            Json::Map(map) => {
                // JCS orders keys by UTF-16 code units, which differs from the order of UTF-8 beyond U+FFFF.
                let mut entries: Vec<(&String, &Json)> = map.iter().collect();
                entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
                for (n, (key, value)) in entries.into_iter().enumerate() {
                    out.push(if n == 0 { '{' } else { ',' });
                    write_text(out, key);
                    out.push(':');
                    value.write(out);
                }
                out.push_str(if map.is_empty() { "{}" } else { "}" });
            }
        }
    }

    /// What a value is as JSON.
    ///
    /// # Errors
    /// It has a number that is not allowed here.
    pub fn of(value: &impl Serialize) -> Result<Json, JsonError> {
        let text = serde_json::to_vec(value).map_err(|error| JsonError::Form(error.to_string()))?;
        Json::parse(&text, usize::MAX)
    }

    /// The value as a type of this crate; types refuse fields that they do not know.
    ///
    /// # Errors
    /// [`JsonError::Form`].
    pub fn into_type<T: DeserializeOwned>(self) -> Result<T, JsonError> {
        serde_json::from_str(&self.canonical()).map_err(|error| JsonError::Form(error.to_string()))
    }

    /// The value under a key of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// The text of a text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Json {
        Json::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

impl From<u32> for Json {
    fn from(n: u32) -> Json {
        Json::Int(n.into())
    }
}

/// As people read it: text without quotes, `absent` for what is known not to be there.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("absent"),
            Json::Text(text) => f.write_str(text),
            Json::List(list) => {
                let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(", "))
            }
            other => f.write_str(&other.canonical()),
        }
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{9}' => out.push_str("\\t"),
            '\u{a}' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\u{d}' => out.push_str("\\r"),
            c if c < ' ' => {
                let _always = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Int(n) => serializer.serialize_i64(*n),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|value| seq.serialize_element(value))?;
                seq.end()
            }
            Json::Map(map) => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(key, value)| out.serialize_entry(key, value))?;
                out.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without floats")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Json, E> {
        let good = (-MAX_INTEGER..=MAX_INTEGER).contains(&n);
        good.then_some(Json::Int(n)).ok_or_else(|| E::custom(format!("{NUMBER} {n}")))
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Json, E> {
        let n = i64::try_from(n).map_err(|_| E::custom(format!("{NUMBER} {n}")))?;
        self.visit_i64(n)
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Json, E> {
        Err(E::custom(format!("{NUMBER} {n}")))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = access.next_entry::<String, Json>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("{DUPLICATE} `{key}`")));
            }
            map.insert(key, value);
        }
        Ok(Json::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Json, JsonError> {
        Json::parse(text.as_bytes(), 1_000)
    }

    #[test]
    fn what_readers_would_disagree_about_is_refused_with_its_own_message() {
        for (text, expected) in [
            (r#"{"a":1,"a":1}"#, "duplicate key: `a`"),
            (r#"{"x":[{"a":1,"b":2,"a":3}]}"#, "duplicate key: `a`"),
            (r#"{"a":1} {}"#, "bytes behind the end"),
            ("{}\n\n", "bytes behind the end"),
            ("{} ", "bytes behind the end"),
            (r#"{"a":1.0}"#, "not an integer of at most"),
            (r#"{"a":9007199254740992}"#, "not an integer of at most"),
            (r#"{"a":-9007199254740992}"#, "not an integer of at most"),
            (r#"{"a":1e3}"#, "not an integer of at most"),
            (r#"{"a":}"#, "not valid JSON"),
            ("", "not valid JSON"),
            (r#""\ud800""#, "not valid JSON"),
        ] {
            let why = parse(text).unwrap_err().to_string();
            assert!(why.contains(expected), "{text}: {why}");
        }
        assert_eq!(Json::parse(b"{}", 1), Err(JsonError::TooLarge { bytes: 2, most: 1 }));
        assert!(Json::parse(&b"\xff\"".repeat(2), 10).is_err());
        assert!(parse(&"[".repeat(500)).is_err(), "nesting is bounded");
        assert_eq!(parse("{}\n"), Ok(Json::Map(BTreeMap::new())));
    }

    /// The example of RFC 8785, section 3.2.3, and its rules for texts.
    #[test]
    fn the_canonical_text_is_that_of_the_standard() {
        let text = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
            "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let Json::Map(_) = parse(text).unwrap() else { panic!() };
        let canonical = parse(text).unwrap().canonical();
        let order = ["Carriage Return", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"];
        let at: Vec<usize> = order.iter().map(|word| canonical.find(word).unwrap()).collect();
        assert!(at.is_sorted(), "{canonical}");
        let text = r#"["\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", true, null, -7, {"b": [], "a": {}}]"#;
        assert_eq!(
            parse(text).unwrap().canonical(),
            "[\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\",true,null,-7,{\"a\":{},\"b\":[]}]"
        );
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let text = proptest::collection::vec(any::<char>(), 0..6).prop_map(|all| all.into_iter().collect::<String>());
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            (-MAX_INTEGER..=MAX_INTEGER).prop_map(Json::Int),
            text.clone().prop_map(Json::Text),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
                proptest::collection::btree_map(text.clone(), inner, 0..4).prop_map(Json::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_canonical_text_reads_back_and_is_a_fixed_point(value in any_json()) {
            let text = value.canonical();
            let back = Json::parse(text.as_bytes(), usize::MAX).unwrap();
            prop_assert_eq!(&back, &value);
            prop_assert_eq!(back.canonical(), text.clone());
            // However another writer lays it out.
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(Json::parse(pretty.as_bytes(), usize::MAX).unwrap().canonical(), text);
        }

        #[test]
        fn different_values_have_different_canonical_texts(a in any_json(), b in any_json()) {
            prop_assert_eq!(a == b, a.canonical() == b.canonical());
        }
    }
}
