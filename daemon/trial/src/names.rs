//! The names that a test file may have.

use failsafe_core::policy::OF_EVENTS;
use std::sync::LazyLock;

pub(crate) const FILE: &[&str] = &["policy", "properties", "test"];
pub(crate) const TEST: &[&str] = &["name", "gpus", "seed", "length", "input", "expect", "others", "properties"];
pub(crate) const CURVE: &[&str] = &["constant", "ramp", "step", "spike", "after", "width", "noise"];
pub(crate) const STEPS: &[&str] = &["from", "by"];
pub(crate) const EXPECT: &[&str] = &["rule", "upkeep", "at", "between", "by", "actions", "mode", "count"];
/// When an input comes, and what it is; with the fields of events.
pub(crate) static INPUT: LazyLock<Vec<&str>> = LazyLock::new(|| [OWN, OF_EVENTS].concat());
const OWN: &[&str] = &[
    "at", "every", "for", "signal", "value", "gpu", "rank", "step", "phase", "manifest", "event", "blind", "lost",
    "unread", "operator", "mode", "ends",
];

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::event::EventKind;

    #[test]
    fn every_field_of_every_event_can_be_written() {
        for field in EventKind::ALL.iter().flat_map(|kind| kind.fields()) {
            assert!(OF_EVENTS.contains(&field.name()), "{}", field.name());
            assert!(INPUT.contains(&field.name()), "{}", field.name());
        }
        assert_eq!(OF_EVENTS.first(), Some(&"path"));
    }
}
