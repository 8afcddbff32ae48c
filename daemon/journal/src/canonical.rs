//! The one textual form of a JSON value in the audit log.
//!
//! No white space; object keys in ascending order of their UTF-8 bytes; strings escape only `"`, `\` and U+0000 to
//! U+001F (short forms where JSON has them, else `\u00xx` in lower case); integers in plain decimal; every other number
//! as the shortest decimal that reads back to the same double, always with a `.` or an `e` so that a float stays a
//! float. It is close to RFC 8785 but keeps 64-bit integers exact (nanosecond times do not fit a double).
//!
//! Written here rather than left to `serde_json`, because the form must outlive that crate's versions and features: its
//! float printer has changed between releases and `preserve_order` anywhere in the build changes its key order.

use serde_json::Value;

/// Deepest nesting of arrays and objects that [`write()`] accepts. Below `serde_json`'s own limit of 128 when parsing, so
/// that whatever was written can be read.
pub const MAX_DEPTH: usize = 96;

/// The value is nested deeper than [`MAX_DEPTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nested deeper than {MAX_DEPTH} levels")]
pub struct TooDeep;

/// Appends the canonical form of `value` to `out`.
///
/// # Errors
/// [`TooDeep`]; `out` then holds an unfinished text.
pub fn write(out: &mut String, value: &Value) -> Result<(), TooDeep> {
    write_at(out, value, 0)
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_str(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    // Plain text is copied at once: verification writes each entry anew. What is escaped is ASCII, so the text can be split there.
    while let Some(at) = rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let (escaped, behind) = special.split_at(1);
        match escaped {
            "\"" => out.push_str("\\\""),
            "\\" => out.push_str("\\\\"),
            "\u{8}" => out.push_str("\\b"),
            "\t" => out.push_str("\\t"),
            "\n" => out.push_str("\\n"),
            "\u{c}" => out.push_str("\\f"),
            "\r" => out.push_str("\\r"),
            control => control.chars().for_each(|c| out.push_str(&format!("\\u{:04x}", u32::from(c)))),
        }
        rest = behind;
    }
    out.push_str(rest);
    out.push('"');
}

fn write_at(out: &mut String, value: &Value, depth: usize) -> Result<(), TooDeep> {
    if depth >= MAX_DEPTH && (value.is_array() || value.is_object()) {
        return Err(TooDeep);
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_str(out, text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_at(out, item, depth + 1)?;
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            pairs.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push('{');
            for (at, (key, item)) in pairs.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_str(out, key);
                out.push(':');
                write_at(out, item, depth + 1)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_number(out: &mut String, number: &serde_json::Number) {
    if let Some(n) = number.as_u64() {
        out.push_str(&n.to_string());
    } else if let Some(n) = number.as_i64() {
        out.push_str(&n.to_string());
    } else {
        match number.as_f64() {
            Some(float) => write_float(out, float),
            // Reached only when `arbitrary_precision` is on somewhere and the number fits no double.
            None => out.push_str("null"),
        }
    }
}

/// `{:e}` of std prints the shortest round-tripping digits, as `-d.ddde-x`; only their layout is decided here.
pub(crate) fn write_float(out: &mut String, float: f64) {
    if !float.is_finite() {
        out.push_str("null");
        return;
    }
    let text = format!("{float:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-5..16).contains(&exponent) {
        out.push_str(&text);
        return;
    }
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    out.push_str(sign);
    match usize::try_from(exponent) {
        Ok(exponent) => {
            let whole = exponent + 1;
            for at in 0..whole.max(digits.len()) {
                if at == whole {
                    out.push('.');
                }
                out.push_str(digits.get(at..=at).unwrap_or("0"));
            }
            if digits.len() <= whole {
                out.push_str(".0");
            }
        }
        Err(_) => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', (exponent.unsigned_abs() as usize) - 1));
            out.push_str(&digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn text(value: &Value) -> String {
        let mut out = String::new();
        write(&mut out, value).unwrap();
        out
    }

    /// These strings are a contract: a change here makes existing logs fail verification.
    #[test]
    fn golden() {
        let cases = [
            (json!(1.0), "1.0"),
            (json!(-0.0), "-0.0"),
            (json!(0.1), "0.1"),
            (json!(2.31), "2.31"),
            (json!(-12.5), "-12.5"),
            (json!(1e15), "1000000000000000.0"),
            (json!(1e16), "1e16"),
            (json!(1.5e300), "1.5e300"),
            (json!(0.00001), "0.00001"),
            (json!(0.000001), "1e-6"),
            (json!(5e-324), "5e-324"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(i64::MIN), "-9223372036854775808"),
            (json!(f64::NAN), "null"),
            (json!("a\"\\\u{1}\n\u{7f}é/"), "\"a\\\"\\\\\\u0001\\n\u{7f}é/\""),
            (json!({"b": [1, {}], "a": null, "é": true, "Z": []}), r#"{"Z":[],"a":null,"b":[1,{}],"é":true}"#),
        ];
        for (value, expected) in cases {
            assert_eq!(text(&value), expected);
        }
    }

    #[test]
    fn depth_is_bounded_and_what_is_written_parses() {
        let nest = |n: usize| (0..n).fold(json!({}), |inner, _| json!([inner]));
        assert_eq!(write(&mut String::new(), &nest(MAX_DEPTH)), Err(TooDeep));
        let deepest = text(&nest(MAX_DEPTH - 1));
        assert!(serde_json::from_str::<Value>(&deepest).is_ok());
    }

    proptest! {
        #[test]
        fn floats_read_back_bit_for_bit(bits in any::<u64>()) {
            let float = f64::from_bits(bits);
            prop_assume!(float.is_finite());
            let written = text(&json!(float));
            let back: Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(back.as_f64().map(f64::to_bits), Some(bits), "{}", written);
            prop_assert_eq!(text(&back), written);
        }
    }
}
