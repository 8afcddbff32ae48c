//! The lines of what a parser took: one for each value and reason, each of words without control characters.

use failsafe_intake::Taken;

/// Panics where a line is not as the daemon expects it.
pub fn lines(taken: &Taken) {
    let text = taken.lines();
    assert_eq!(text.lines().count(), taken.values.len() + taken.refused.len());
    for line in text.lines() {
        assert!(line.len() <= 512 && line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line:?}");
        let mut words = line.split(' ');
        match words.next() {
            Some("!refused") => assert!(words.next().is_some_and(|count| count.parse::<u64>().is_ok())),
            Some(name) => {
                assert!(failsafe_core::signal::metric_name(name), "{line:?}");
                assert!(words.next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line:?}");
            }
            None => panic!("an empty line"),
        }
    }
}
