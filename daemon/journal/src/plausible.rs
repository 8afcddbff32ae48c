//! Whether the wall clock can be right, as far as the log shows: what is removed because of its age is gone for good, and one wrong
//! second of the clock makes everything old.
//!
//! A clock that is more than a day ahead of what the last entry and the monotonic clock allow is not believed, until a day of
//! monotonic time has passed with it. A machine that was off for longer than a day looks the same, and waits too.

use crate::clock::Stamp;
use crate::entry::{Entry, kind};
use crate::view::View;

/// The cause of the gap entry about a clock that is not believed.
pub(crate) const CAUSE: &str = "clock";

const DAY_NS: u64 = 86_400 * 1_000_000_000;

/// What is known of the wall clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plausible {
    /// The last time that is believed.
    last: Option<Stamp>,
    /// Since when the clock is another one.
    jumped: Option<Stamp>,
    reported: bool,
}

impl Plausible {
    /// If the last thing that is known is an entry of this wall time.
    pub fn after(wall_ns: Option<u64>) -> Plausible {
        Plausible { last: wall_ns.map(|wall_ns| Stamp { wall_ns, ..Stamp::default() }), ..Plausible::default() }
    }

    /// Takes the time of an entry of the log, which is parsed if it may be the report.
    pub fn read(&mut self, view: &View<'_>, entry: Option<&Entry>) {
        let View { wall_ns, mono_ns, ref boot_id, .. } = *view;
        self.see(&Stamp { wall_ns, mono_ns, boot_id: boot_id.to_string() });
        let report = |entry: &Entry| entry.kind == kind::GAP && entry.body["cause"] == CAUSE;
        self.reported |= self.jumped.is_some() && entry.is_some_and(report);
    }

    /// Takes the time now. Whether it is believed.
    pub fn see(&mut self, now: &Stamp) -> bool {
        let follows = |last: &Stamp| ahead(last, now) <= DAY_NS;
        let waited =
            |jumped: &Stamp| jumped.boot_id == now.boot_id && now.mono_ns.saturating_sub(jumped.mono_ns) >= DAY_NS;
        if self.last.as_ref().is_none_or(follows) || self.jumped.as_ref().is_some_and(|at| follows(at) && waited(at)) {
            *self = Plausible { last: Some(now.clone()), ..Plausible::default() };
        } else if !self.jumped.as_ref().is_some_and(|at| at.boot_id == now.boot_id && follows(at)) {
            self.jumped = Some(now.clone());
        }
        self.jumped.is_none()
    }

    /// What is to be recorded once, in words, if the clock is not believed.
    pub fn report(&mut self, now: &Stamp) -> Option<String> {
        let last = self.last.as_ref().filter(|_| self.jumped.is_some() && !self.reported)?;
        let seconds = ahead(last, now) / 1_000_000_000;
        self.reported = true;
        Some(format!(
            "the wall clock is {seconds} s ahead of what the log allows: it is wrong, or the machine was off. Nothing is removed because \
             of its age for a day"
        ))
    }
}

/// By how much the wall clock is ahead of where it is if `last` was the time and the machine was never off.
fn ahead(last: &Stamp, now: &Stamp) -> u64 {
    // In another boot the machine has run for at least as long.
    let passed = if last.boot_id == now.boot_id { now.mono_ns.saturating_sub(last.mono_ns) } else { now.mono_ns };
    now.wall_ns.saturating_sub(last.wall_ns).saturating_sub(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = DAY_NS / 24;

    fn at(wall: u64, mono: u64, boot: &str) -> Stamp {
        Stamp { wall_ns: wall * HOUR, mono_ns: mono * HOUR, boot_id: boot.into() }
    }

    #[test]
    fn a_clock_that_jumps_is_believed_after_a_day() {
        let mut clock = Plausible::default();
        assert!(clock.see(&at(1_000, 0, "a")));
        assert!(clock.see(&at(1_900, 900, "a")), "a silence is no jump");
        assert!(clock.see(&at(1_920, 901, "a")), "nor is less than a day");
        assert!(!clock.see(&at(20_000, 902, "a")));
        assert!(clock.report(&at(20_000, 902, "a")).is_some_and(|text| text.contains("65084400 s ahead")));
        assert_eq!(clock.report(&at(20_000, 902, "a")), None, "once");
        assert!(!clock.see(&at(20_023, 925, "a")));
        assert!(!clock.see(&at(20_024, 1, "b")), "a restart of the machine begins the day anew");
        assert!(!clock.see(&at(20_047, 24, "b")));
        assert!(clock.see(&at(20_048, 25, "b")));
    }

    #[test]
    fn a_clock_that_was_wrong_and_is_right_again_is_believed_at_once() {
        let mut clock = Plausible::after(Some(1_000 * HOUR));
        assert!(!clock.see(&at(20_000, 1, "a")));
        assert!(clock.see(&at(1_002, 2, "a")));
        assert!(clock.see(&at(900, 3, "a")), "backwards makes nothing old");
        assert!(!clock.see(&at(1_003, 4, "a")), "what it missed is a jump too");
    }

    #[test]
    fn a_machine_that_was_off_for_long_waits() {
        let mut clock = Plausible::after(Some(1_000 * HOUR));
        assert!(clock.see(&at(1_020, 1, "b")));
        assert!(!clock.see(&at(2_000, 1, "c")));
    }
}
