//! The names that a test file may have.

use failsafe_core::event::EventKind;

pub(crate) const FILE: &[&str] = &["policy", "properties", "test"];
pub(crate) const TEST: &[&str] = &["name", "gpus", "seed", "length", "input", "expect", "others", "properties"];
pub(crate) const CURVE: &[&str] = &["constant", "ramp", "step", "spike", "after", "width", "noise"];
pub(crate) const EXPECT: &[&str] = &["rule", "upkeep", "at", "between", "by", "actions", "mode", "count"];
/// When an input comes, and what it is.
pub(crate) const INPUT: &[&str] = &[
    "at",
    "every",
    "for",
    "signal",
    "value",
    "gpu",
    "rank",
    "phase",
    "event",
    "blind",
    "lost",
    "unread",
    "operator",
    "mode",
    "ends",
    "path",
    "argv",
    "comm",
    "uid",
    "address",
    "port",
    "protocol",
    "family",
    "verdict",
    "assurance",
    "name",
    "kind",
    "access",
    "gain",
    "what",
    "budget",
    "code",
    "status",
    "class",
    "since",
];
/// Those of them that are fields of events.
pub(crate) const OF_EVENTS: &[&str] = INPUT.split_at(15).1;

/// The kind of event with a name.
pub(crate) fn event(name: &str) -> Option<EventKind> {
    EventKind::ALL.iter().copied().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_every_event_can_be_written() {
        for field in EventKind::ALL.iter().flat_map(|kind| kind.fields()) {
            assert!(OF_EVENTS.contains(&field.name()), "{}", field.name());
        }
        assert_eq!(OF_EVENTS.first(), Some(&"path"));
    }
}
