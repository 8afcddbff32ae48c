//! Text into metrics: lines `name value [step] [rank=LABEL]`. Anything may arrive here; nothing of it panics or allocates
//! beyond the text's own size.

use failsafe_core::signal::{Series, metric_name};

/// Largest datagram that is read, bytes.
pub const MAX_DATAGRAM: usize = 8 << 10;
/// Most lines of one datagram that are taken.
pub const MAX_LINES: usize = 128;

/// One metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Line<'a> {
    /// Its name, as [`metric_name`] allows.
    pub name: &'a str,
    /// Its value; NaN and infinities are values too.
    pub value: f64,
    /// The training step, where it is given.
    pub step: Option<u64>,
    /// The rank that the line names.
    pub rank: Option<Series>,
}

/// The metrics of a datagram, and how many lines were none.
pub fn parse(datagram: &[u8]) -> (Vec<Line<'_>>, u64) {
    let (mut lines, mut garbage) = (Vec::new(), 0);
    for raw in datagram.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match std::str::from_utf8(raw).ok().and_then(|text| line(text).ok()) {
            Some(line) if lines.len() < MAX_LINES => lines.push(line),
            _ => garbage += 1,
        }
    }
    (lines, garbage)
}

/// Why a line is no metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// The name.
    #[error("the name is not 1 to 64 of letters, digits, `_`, `-`, `.`, `/`")]
    Name,
    /// The value.
    #[error("the value is not a number (NaN and inf are)")]
    Value,
    /// The step.
    #[error("the step is not a whole number from 0 to 2^64 - 1")]
    Step,
    /// The rank.
    #[error("the rank is not 1 to 32 of letters, digits, `-`, `_`, `.`")]
    Rank,
    /// Something behind it.
    #[error("the line has more than `NAME VALUE [STEP] [rank=LABEL]`")]
    More,
}

/// Reads one line.
///
/// # Errors
/// [`Bad`]: what of it is wrong.
pub fn line(text: &str) -> Result<Line<'_>, Bad> {
    let mut words = text.split_ascii_whitespace().peekable();
    let name = words.next().filter(|name| metric_name(name)).ok_or(Bad::Name)?;
    let value = words.next().and_then(|value| value.parse().ok()).ok_or(Bad::Value)?;
    let step = match words.next_if(|word| !word.starts_with("rank=")) {
        Some(step) => Some(step.parse().map_err(|_| Bad::Step)?),
        None => None,
    };
    let rank = match words.next() {
        Some(word) => Some(word.strip_prefix("rank=").ok_or(Bad::More).and_then(|r| Series::rank(r).ok_or(Bad::Rank))?),
        None => None,
    };
    if words.next().is_some() { Err(Bad::More) } else { Ok(Line { name, value, step, rank }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_metrics_or_garbage() {
        let (lines, garbage) = parse(b"loss 2.31 7\nacc nan\r\n\nlr -1e-4\n");
        assert_eq!(lines[0], Line { name: "loss", value: 2.31, step: Some(7), rank: None });
        assert!(lines[1].value.is_nan() && lines[1].name == "acc");
        assert_eq!((lines[2].value, garbage), (-1e-4, 0));
        for bad in ["loss", "loss x", "loss 1 2 3", "lo$s 1", "loss 1 -2", "\u{e9} 1", " ", "loss 1 1.5"] {
            assert_eq!(parse(bad.as_bytes()), (vec![], 1), "{bad:?}");
        }
        assert_eq!(parse(&[0xff, b' ', b'1']), (vec![], 1));
        let rank = |text| line(text).map(|line| (line.step, line.rank));
        assert_eq!(rank("loss 1 rank=3"), Ok((None, Series::rank("3"))));
        assert_eq!(rank("loss 1 7 rank=node-0.3"), Ok((Some(7), Series::rank("node-0.3"))));
        for (bad, why) in [
            ("lo$s 1", Bad::Name),
            ("loss", Bad::Value),
            ("loss x", Bad::Value),
            ("loss 1 -2", Bad::Step),
            ("loss 1 rank=", Bad::Rank),
            ("loss 1 rank=a/b", Bad::Rank),
            ("loss 1 2 3", Bad::More),
            ("loss 1 rank=1 2", Bad::More),
        ] {
            assert_eq!(line(bad), Err(why), "{bad:?}");
        }
        let many = "a 1\n".repeat(MAX_LINES + 3);
        let (lines, garbage) = parse(many.as_bytes());
        assert_eq!((lines.len(), garbage), (MAX_LINES, 3));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..MAX_DATAGRAM)) {
            let (lines, _) = parse(&bytes);
            prop_assert!(lines.len() <= MAX_LINES);
        }

        #[test]
        fn what_is_written_is_read_back(name in "[a-zA-Z0-9_./-]{1,64}", value: f64, step: Option<u64>) {
            let text = match step {
                Some(step) => format!("{name} {value} {step}"),
                None => format!("{name} {value}"),
            };
            let (lines, garbage) = parse(text.as_bytes());
            prop_assert_eq!(garbage, 0);
            prop_assert_eq!((lines[0].name, lines[0].value.to_bits() == value.to_bits() || value.is_nan(), lines[0].step), (name.as_str(), true, step));
        }
    }
}
