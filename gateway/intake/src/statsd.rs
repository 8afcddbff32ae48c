//! statsd: lines `NAME:VALUE|TYPE[|@RATE][|#TAG:VALUE,...]` (the tags as DogStatsD writes them).
//!
//! Gauges (`g`), timers (`ms`), histograms (`h`) and distributions (`d`) are values. Counters (`c`) are too: each is the
//! increase since the last one, not a total. Sets (`s`), and gauges that are changed by a sign (`+1|g`), are refused: their value
//! depends on those before.

use crate::{Labels, Taken, Value, Why, labelled};

/// Reads one datagram.
pub fn datagram(bytes: &[u8]) -> Taken {
    let mut taken = Taken::default();
    for raw in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let value = std::str::from_utf8(raw).map_err(|_| Why::Format).and_then(line);
        taken.take(value);
    }
    taken
}

fn line(text: &str) -> Result<Value, Why> {
    let (name, rest) = text.trim_end_matches('\r').split_once(':').ok_or(Why::Format)?;
    let mut parts = rest.split('|');
    let (number, kind) = (parts.next().ok_or(Why::Format)?, parts.next().ok_or(Why::Format)?);
    match kind {
        "g" if number.starts_with(['+', '-']) && number != "-inf" && number != "+inf" => return Err(Why::Kind),
        "g" | "ms" | "h" | "d" | "c" => {}
        _ => return Err(Why::Kind),
    }
    let value = number.parse().map_err(|_| Why::Value)?;
    let mut labels = Labels::default();
    for part in parts {
        if let Some(tags) = part.strip_prefix('#') {
            for tag in tags.split(',').filter(|tag| !tag.is_empty()) {
                let (key, value) = tag.split_once(':').ok_or(Why::Labels)?;
                labels.add(key, value.to_owned());
            }
        } else if !part.starts_with('@') {
            return Err(Why::Format);
        }
    }
    labelled(name, value, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_values_with_step_and_rank_from_their_tags() {
        let taken = datagram(b"loss:2.5|g|#step:7,rank:3\nqps:3|c|@0.1\nacc:nan|g\ntime:320|ms|#split:eval\n");
        assert_eq!(taken.refused.len(), 0, "{taken:?}");
        let lines = taken.lines();
        assert_eq!(lines, "loss 2.5e0 7 rank=3\nqps 3e0\nacc NaN\ntime/split/eval 3.2e2\n");
    }

    #[test]
    fn what_is_not_taken_is_counted_by_its_reason() {
        for (bad, why) in [
            ("loss", Why::Format),
            ("loss:1", Why::Format),
            ("loss:1|g|x", Why::Format),
            ("users:7|s", Why::Kind),
            ("loss:+1|g", Why::Kind),
            ("loss:-1|g", Why::Kind),
            ("loss:one|g", Why::Value),
            ("lo$s:1|g", Why::Name),
            (":1|g", Why::Name),
            ("loss:1|g|#step:-1", Why::Step),
            ("loss:1|g|#rank:a/b", Why::Rank),
            ("loss:1|g|#tag", Why::Labels),
            ("loss:1|g|#a:b c", Why::Labels),
        ] {
            let taken = datagram(bad.as_bytes());
            assert_eq!((taken.values.len(), taken.refused.get(&why)), (0, Some(&1)), "{bad}: {taken:?}");
        }
        assert_eq!(datagram(b"\xff:1|g").refused[&Why::Format], 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let taken = datagram(&bytes);
            let lines = taken.refused.values().sum::<u64>() + taken.values.len() as u64;
            prop_assert!(lines <= bytes.len() as u64);
        }
    }
}
