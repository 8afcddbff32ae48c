//! The text format of Prometheus (`text/plain; version=0.0.4`): lines `NAME{LABEL="VALUE",...} VALUE [TIME]`.
//!
//! Comments and the time are left out. The buckets of a histogram (`le`) are values by what [`histogram`](crate::histogram) makes of
//! them, from the second text on: they add up since the start of who serves them.

use crate::{
    Labels, MOST, Taken, Value, Why,
    histogram::{self, BUCKETS, Counts, Earlier, Explicit, Report},
    labelled, part_name,
};
use std::collections::BTreeMap;

/// The end of the name of a bucket.
const BUCKET: &str = "_bucket";

/// Reads one answer. `earlier`: what the same port answered before.
pub fn text(bytes: &[u8], earlier: &mut Earlier) -> Taken {
    selected(bytes, earlier, &|_| true).0
}

/// Reads what is wanted of one answer, and how many samples are not. The limits hold for what is wanted.
pub fn selected(bytes: &[u8], earlier: &mut Earlier, wanted: &dyn Fn(&str) -> bool) -> (Taken, usize) {
    let (mut taken, mut histograms, mut not_wanted) = (Taken::default(), Histograms::default(), 0);
    for raw in bytes.split(|byte| *byte == b'\n') {
        match std::str::from_utf8(raw).map(str::trim) {
            Ok(text) if text.is_empty() || text.starts_with('#') => {}
            Ok(text) => match line(text) {
                Ok(Sample::Other) => {}
                Ok(Sample::Value(value)) if !wanted(&value.name) => not_wanted += 1,
                Ok(Sample::Value(value)) => taken.take(Ok(value)),
                Ok(Sample::Bucket { name, of, upper, count }) => {
                    if !histogram::parts().any(|part| wanted(&part_name(&name, part, &of))) {
                        not_wanted += 1;
                    } else if let Err(why) = histograms.add(name, of, upper, count) {
                        taken.refuse(why);
                    }
                }
                Err(why) => taken.take(Err(why)),
            },
            Err(_) => taken.refuse(Why::Format),
        }
    }
    histograms.take(&mut taken, earlier, wanted);
    (taken, not_wanted)
}

/// What a line has.
enum Sample {
    Value(Value),
    /// It has the label of a bucket and is none. It is left out.
    Other,
    /// So many values of the histogram `name`, which is `of` with its labels, are at most `upper`.
    Bucket {
        name: String,
        of: Value,
        upper: f64,
        count: u64,
    },
}

/// The buckets of one histogram: how many values are at most as large as each bound.
struct OfOne {
    name: String,
    /// The same with its labels, as of a value.
    of: Value,
    buckets: Vec<(f64, u64)>,
}

/// The buckets of one text, by histogram: its name with labels, and its rank.
#[derive(Default)]
struct Histograms {
    all: BTreeMap<(String, Option<String>), OfOne>,
    buckets: usize,
}

impl Histograms {
    fn add(&mut self, name: String, of: Value, upper: f64, count: u64) -> Result<(), Why> {
        if self.buckets >= MOST {
            return Err(Why::Many);
        }
        let key = (of.name.clone(), of.rank.clone());
        let OfOne { buckets, .. } = self.all.entry(key).or_insert_with(|| OfOne { name, of, buckets: Vec::new() });
        // One more than there may be is refused below, as a whole.
        if buckets.len() <= BUCKETS {
            buckets.push((upper, count));
            self.buckets += 1;
        }
        Ok(())
    }

    fn take(self, taken: &mut Taken, earlier: &mut Earlier, wanted: &dyn Fn(&str) -> bool) {
        for OfOne { name, of, mut buckets } in self.all.into_values() {
            buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            let Some(counts) = counts(&buckets) else {
                taken.refuse(Why::Buckets);
                continue;
            };
            let report = Report { began: 0, made: 0, adds_up: true, least: None, greatest: None, counts };
            taken.distribution(&name, &of, "", earlier, report, wanted);
        }
    }
}

/// The last bucket is the one up to infinity. Each has the values of those before it too.
fn counts(buckets: &[(f64, u64)]) -> Option<Counts> {
    let (last, finite) = buckets.split_last()?;
    let mut before = 0;
    let mut apart = Vec::with_capacity(buckets.len());
    for (_, count) in buckets {
        apart.push(count.checked_sub(before)?);
        before = *count;
    }
    let bounds = finite.iter().map(|(upper, _)| *upper).collect();
    Explicit::new(bounds, apart).filter(|_| last.0 == f64::INFINITY).map(Counts::Explicit)
}

fn line(text: &str) -> Result<Sample, Why> {
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
    let Some(upper) = labels.others.remove("le") else { return labelled(name, value, labels).map(Sample::Value) };
    let Some(name) = name.strip_suffix(BUCKET) else { return Ok(Sample::Other) };
    let upper = number(&upper).filter(|upper| !upper.is_nan()).ok_or(Why::Buckets)?;
    // A count is whole; up to 2^53 exactly.
    if !(value >= 0.0 && value < u64::MAX as f64 && value.fract() == 0.0) {
        return Err(Why::Buckets);
    }
    Ok(Sample::Bucket { name: name.to_owned(), of: labelled(name, 0.0, labels)?, upper, count: value as u64 })
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

    /// The first text of a port.
    fn first(bytes: &[u8]) -> Taken {
        text(bytes, &mut Earlier::default())
    }

    #[test]
    fn the_buckets_of_a_histogram_are_the_values_since_the_text_before() {
        let served = |counts: [u64; 3]| {
            let [a, b, c] = counts;
            format!(
                "t_bucket{{op=\"x\",rank=\"3\",le=\"0.5\"}} {a}\nt_bucket{{op=\"x\",rank=\"3\",le=\"+Inf\"}} {c}\n\
                 t_bucket{{op=\"x\",rank=\"3\",le=\"1\"}} {b}\n"
            )
        };
        let mut earlier = Earlier::default();
        assert_eq!(text(served([10, 20, 20]).as_bytes(), &mut earlier), Taken::default(), "since when is not known");
        let lines = text(served([10, 22, 22]).as_bytes(), &mut earlier).lines();
        let expected = "t.p50/op/x 7.5e-1 rank=3\nt.p90/op/x 9.5e-1 rank=3\nt.p99/op/x 9.95e-1 rank=3\n\
            t.sample/op/x 6.25e-1 rank=3\nt.sample/op/x 8.75e-1 rank=3\n";
        assert_eq!(lines, expected);
        assert_eq!(text(served([1, 1, 1]).as_bytes(), &mut earlier), Taken::default(), "it began anew");
        assert_eq!(text(served([2, 2, 2]).as_bytes(), &mut earlier).values.len(), 4);
    }

    #[test]
    fn the_limits_hold_for_what_is_selected() {
        let served = |count: u64| {
            let histogram = |n: u64| format!("h{n}_bucket{{le=\"1\"}} {count}\nh{n}_bucket{{le=\"+Inf\"}} {count}\n");
            (0..300).map(histogram).collect::<String>() + "loss 1\n"
        };
        let mut earlier = Earlier::default();
        let mut read = |count| selected(served(count).as_bytes(), &mut earlier, &|name| name == "h99.p99");
        assert_eq!(read(10), (Taken::default(), 599));
        let (taken, not_wanted) = read(12);
        assert_eq!((taken.lines().as_str(), not_wanted), ("h99.p99 9.9e-1\n", 599));
    }

    #[test]
    fn buckets_that_are_not_in_order_are_refused_once_for_each_histogram() {
        for bad in [
            "t_bucket{le=\"1\"} 5\nt_bucket{le=\"+Inf\"} 4\n",
            "t_bucket{le=\"1\"} 5\n",
            "t_bucket{le=\"1\"} 5\nt_bucket{le=\"1\"} 5\nt_bucket{le=\"+Inf\"} 5\n",
            "t_bucket{le=\"x\"} 5\n",
            "t_bucket{le=\"1\"} 0.5\n",
            "t_bucket{le=\"1\"} NaN\n",
        ] {
            let taken = first(bad.as_bytes());
            assert_eq!((taken.values.len(), taken.refused.get(&Why::Buckets)), (0, Some(&1)), "{bad}");
        }
        let many: String = (0..2 * BUCKETS).map(|n| format!("t_bucket{{le=\"{n}\"}} 1\n")).collect();
        assert_eq!(first(many.as_bytes()).refused, [(Why::Buckets, 1)].into());
        let many: String = (0..MOST + 5).map(|n| format!("t{n}_bucket{{le=\"+Inf\"}} 1\n")).collect();
        assert_eq!(first(many.as_bytes()).refused, [(Why::Many, 5)].into());
    }

    #[test]
    fn samples_are_values_and_comments_are_left_out() {
        let taken = first(
            br#"# HELP train_loss The loss.
# TYPE train_loss gauge
train_loss{step="12",rank="0"} 2.5 1395066363000
train_loss{split = "eval", } NaN
tokens_total 1.5e9
latency_seconds_bucket{le="0.5"} 3
latency_seconds_bucket{le="+Inf"} 4
latency_seconds_sum 1.25
latency_seconds_count 4
latency_seconds:rate{le="0.5"} 3
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
            let taken = first(bad.as_bytes());
            assert_eq!((taken.values.len(), taken.refused.get(&why)), (0, Some(&1)), "{bad}: {taken:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _taken = first(&bytes);
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
