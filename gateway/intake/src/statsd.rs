//! statsd: lines `NAME:VALUE[:VALUE...]|TYPE[|@RATE][|#TAG:VALUE,...]` (tags and several values as DogStatsD writes them).
//!
//! Gauges (`g`), timers (`ms`), histograms (`h`) and distributions (`d`) are values. Counters (`c`) are too: each is the
//! increase since the last one, not a total, divided by the rate at which it was sampled. The rate of other types says how many values
//! there were, which changes none of them. Sets (`s`), and gauges that are changed by a sign (`+1|g`), are refused: their value
//! depends on those before. What DogStatsD adds about container, time and cardinality is ignored.

use crate::{Labels, MOST, Taken, Value, Why, labelled};

/// Parts of a line that say nothing about the value: container id, external data, cardinality, timestamp.
const IGNORED: [&str; 4] = ["c:", "e:", "card:", "T"];

/// Reads one datagram.
pub fn datagram(bytes: &[u8]) -> Taken {
    let mut taken = Taken::default();
    for raw in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match std::str::from_utf8(raw).map_err(|_| Why::Format).and_then(Line::read) {
            Ok(line) => line.take(&mut taken),
            Err(why) => taken.refuse(why),
        }
    }
    taken
}

/// A line, of which the numbers are not read yet.
struct Line<'a> {
    numbers: &'a str,
    kind: &'a str,
    rate: f64,
    /// Its name and labels, or why they are refused. They are read once: a line can have thousands of numbers and of tags.
    template: Result<Value, Why>,
}

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Result<Line<'a>, Why> {
        let (name, rest) = text.trim_end_matches('\r').split_once(':').ok_or(Why::Format)?;
        let mut parts = rest.split('|');
        let (numbers, kind) = (parts.next().ok_or(Why::Format)?, parts.next().ok_or(Why::Format)?);
        if !matches!(kind, "g" | "ms" | "h" | "d" | "c") {
            return Err(Why::Kind);
        }
        let (mut rate, mut labels) = (1.0, Labels::default());
        for part in parts {
            if let Some(tags) = part.strip_prefix('#') {
                for tag in tags.split(',').filter(|tag| !tag.is_empty()) {
                    let (key, value) = tag.split_once(':').ok_or(Why::Labels)?;
                    labels.add(key, value.to_owned());
                }
            } else if let Some(text) = part.strip_prefix('@') {
                rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1.0).ok_or(Why::Rate)?;
            } else if !IGNORED.iter().any(|start| part.starts_with(start)) {
                return Err(Why::Format);
            }
        }
        Ok(Line { numbers, kind, rate, template: labelled(name, 0.0, labels) })
    }

    fn take(&self, taken: &mut Taken) {
        let mut numbers = self.numbers.split(':');
        let count = |numbers: std::str::Split<'_, char>| u64::try_from(numbers.count()).unwrap_or(u64::MAX);
        let template = match &self.template {
            Ok(template) => template,
            Err(why) => return taken.refuse_many(*why, count(numbers)),
        };
        while taken.values.len() < MOST {
            let Some(number) = numbers.next() else { return };
            taken.take(self.value(number).map(|value| Value { value, ..template.clone() }));
        }
        taken.refuse_many(Why::Many, count(numbers));
    }

    fn value(&self, number: &str) -> Result<f64, Why> {
        if self.kind == "g" && number.starts_with(['+', '-']) && number != "-inf" && number != "+inf" {
            return Err(Why::Kind);
        }
        let value: f64 = number.parse().map_err(|_| Why::Value)?;
        Ok(if self.kind == "c" { value / self.rate } else { value })
    }
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
        assert_eq!(lines, "loss 2.5e0 7 rank=3\nqps 3e1\nacc NaN\ntime/split/eval 3.2e2\n");
    }

    #[test]
    fn a_counter_is_divided_by_its_rate_and_other_values_are_not() {
        let lines = |text: &str| datagram(text.as_bytes()).lines();
        assert_eq!(lines("tokens:3|c|@0.01"), "tokens 3e2\n");
        assert_eq!(lines("tokens:3|c|#rank:1|@0.5"), "tokens 6e0 rank=1\n");
        assert_eq!(lines("time:320|ms|@0.01\ntime:320|h|@0.01"), "time 3.2e2\ntime 3.2e2\n");
        for rate in ["0", "-0.5", "1.5", "nan", "x", "", "inf"] {
            let taken = datagram(format!("tokens:3|c|@{rate}").as_bytes());
            assert_eq!((taken.values.len(), taken.refused.get(&Why::Rate)), (0, Some(&1)), "{rate}");
        }
    }

    #[test]
    fn each_of_several_values_in_a_line_is_taken() {
        let taken = datagram(b"time:1:2.5:x|ms|#step:7\nloss:1:-1|g\n");
        assert_eq!(taken.lines(), "!refused 1 kind\n!refused 1 value\ntime 1e0 7\ntime 2.5e0 7\nloss 1e0\n");
        let many = format!("a:{}|h", vec!["1"; crate::MOST + 3].join(":"));
        let taken = datagram(many.as_bytes());
        assert_eq!((taken.values.len(), taken.refused[&Why::Many]), (crate::MOST, 3));
    }

    /// With the product of both as its cost this test would not end.
    #[test]
    fn a_line_of_many_numbers_and_many_tags_costs_their_sum() {
        let tags: Vec<String> = (0..50_000).map(|n| format!("t{n}:1")).collect();
        let line = format!("a:{}|c|#{}", vec!["1"; 50_000].join(":"), tags.join(","));
        let taken = datagram(line.as_bytes());
        assert_eq!((taken.values.len(), taken.refused), (0, [(Why::Labels, 50_000)].into()));
    }

    #[test]
    fn what_dogstatsd_says_of_container_and_time_is_ignored() {
        let line = b"loss:1|g|@1|#rank:0|c:ci-83c0|e:it-false|card:low|T1656581400";
        assert_eq!(datagram(line).lines(), "loss 1e0 rank=0\n");
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
            prop_assert!(taken.count() <= bytes.len() as u64);
        }
    }
}
