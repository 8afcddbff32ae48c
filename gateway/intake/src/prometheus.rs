//! The text format of Prometheus (`text/plain; version=0.0.4`): lines `NAME{LABEL="VALUE",...} VALUE [TIME]`.
//!
//! Comments and the time are left out. So are the buckets of histograms (`le`): their `_sum` and `_count` are values.

use crate::{Labels, Taken, Value, Why, labelled};

/// Reads one answer.
pub fn text(bytes: &[u8]) -> Taken {
    let mut taken = Taken::default();
    for raw in bytes.split(|byte| *byte == b'\n') {
        match std::str::from_utf8(raw).map(str::trim) {
            Ok(text) if text.is_empty() || text.starts_with('#') => {}
            Ok(text) => match line(text) {
                Ok(None) => {}
                Ok(Some(value)) => taken.take(Ok(value)),
                Err(why) => taken.take(Err(why)),
            },
            Err(_) => taken.refuse(Why::Format),
        }
    }
    taken
}

/// `None`: a bucket of a histogram.
fn line(text: &str) -> Result<Option<Value>, Why> {
    let end = text.find(|c: char| c == '{' || c.is_ascii_whitespace()).ok_or(Why::Format)?;
    let (name, rest) = text.split_at(end);
    let mut labels = Labels::default();
    let rest = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside, &mut labels)?,
        None => rest,
    };
    let mut words = rest.split_ascii_whitespace();
    let value = number(words.next().ok_or(Why::Format)?).ok_or(Why::Value)?;
    let time = words.next().is_none_or(|time| time.parse::<f64>().is_ok());
    if !time || words.next().is_some() {
        return Err(Why::Format);
    }
    if labels.others.contains_key("le") {
        return Ok(None);
    }
    labelled(name, value, labels).map(Some)
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

/// Reads labels behind `{`; the answer is what follows `}`.
fn read_labels<'a>(mut text: &'a str, labels: &mut Labels) -> Result<&'a str, Why> {
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix('}') {
            return Ok(rest);
        }
        let (key, rest) = text.split_once('=').ok_or(Why::Format)?;
        let rest = rest.trim_start().strip_prefix('"').ok_or(Why::Format)?;
        let (value, rest) = quoted(rest)?;
        labels.add(key.trim(), value);
        text = rest.trim_start();
        match text.strip_prefix(',') {
            Some(rest) => text = rest,
            None if text.starts_with('}') => {}
            None => return Err(Why::Format),
        }
    }
}

/// Reads up to the closing `"`.
fn quoted(text: &str) -> Result<(String, &str), Why> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                _ => return Err(Why::Format),
            },
            c => value.push(c),
        }
    }
    Err(Why::Format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn samples_are_values_and_comments_and_buckets_are_left_out() {
        let taken = text(
            br#"# HELP train_loss The loss.
# TYPE train_loss gauge
train_loss{step="12",rank="0"} 2.5 1395066363000
train_loss{split = "eval", } NaN
tokens_total 1.5e9
latency_seconds_bucket{le="0.5"} 3
latency_seconds_bucket{le="+Inf"} 4
latency_seconds_sum 1.25
latency_seconds_count 4
rpc{quantile="0.99"} +Inf
# EOF
"#,
        );
        assert_eq!(taken.refused.len(), 0, "{taken:?}");
        let expected = "train_loss 2.5e0 12 rank=0\ntrain_loss/split/eval NaN\ntokens_total 1.5e9\n\
            latency_seconds_sum 1.25e0\nlatency_seconds_count 4e0\nrpc/quantile/0.99 inf\n";
        assert_eq!(taken.lines(), expected);
    }

    #[test]
    fn what_is_not_taken_is_counted_by_its_reason() {
        for (bad, why) in [
            ("loss", Why::Format),
            ("loss{", Why::Format),
            ("loss{a=\"b} 1", Why::Format),
            ("loss{a=\"b\"c=\"d\"} 1", Why::Format),
            ("loss{a=\"\\x\"} 1", Why::Format),
            ("loss 1 2 3", Why::Format),
            ("loss 1 now", Why::Format),
            ("loss one", Why::Value),
            ("lo:ss 1", Why::Name),
            ("{a=\"b\"} 1", Why::Name),
            ("loss{a=\"b c\"} 1", Why::Labels),
            ("loss{step=\"1.5\"} 1", Why::Step),
        ] {
            let taken = text(bad.as_bytes());
            assert_eq!((taken.values.len(), taken.refused.get(&why)), (0, Some(&1)), "{bad}: {taken:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _taken = text(&bytes);
        }

        #[test]
        fn a_label_is_read_back_with_its_escapes(label in "[a-z\"\\\\\n]{1,20}") {
            let escaped = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let mut labels = Labels::default();
            let text = format!("k=\"{escaped}\"}} 1");
            prop_assert_eq!(read_labels(&text, &mut labels), Ok(" 1"));
            prop_assert_eq!(&labels.others["k"], &label);
        }
    }
}
