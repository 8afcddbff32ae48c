//! One datagram into metrics: lines `name value [step]`. Anything may arrive here; nothing of it panics or allocates beyond
//! the datagram's own size.

use failsafe_core::signal::metric_name;

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
}

/// The metrics of a datagram, and how many lines were none.
pub fn parse(datagram: &[u8]) -> (Vec<Line<'_>>, u64) {
    let (mut lines, mut garbage) = (Vec::new(), 0);
    for raw in datagram.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match std::str::from_utf8(raw).ok().and_then(line) {
            Some(line) if lines.len() < MAX_LINES => lines.push(line),
            _ => garbage += 1,
        }
    }
    (lines, garbage)
}

fn line(text: &str) -> Option<Line<'_>> {
    let mut words = text.split_ascii_whitespace();
    let name = words.next().filter(|name| metric_name(name))?;
    let value = words.next()?.parse().ok()?;
    let step = match words.next() {
        Some(step) => Some(step.parse().ok()?),
        None => None,
    };
    words.next().is_none().then_some(Line { name, value, step })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_metrics_or_garbage() {
        let (lines, garbage) = parse(b"loss 2.31 7\nacc nan\r\n\nlr -1e-4\n");
        assert_eq!(lines[0], Line { name: "loss", value: 2.31, step: Some(7) });
        assert!(lines[1].value.is_nan() && lines[1].name == "acc");
        assert_eq!((lines[2].value, garbage), (-1e-4, 0));
        for bad in ["loss", "loss x", "loss 1 2 3", "lo$s 1", "loss 1 -2", "\u{e9} 1", " ", "loss 1 1.5"] {
            assert_eq!(parse(bad.as_bytes()), (vec![], 1), "{bad:?}");
        }
        assert_eq!(parse(&[0xff, b' ', b'1']), (vec![], 1));
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
