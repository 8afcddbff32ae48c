//! Where the journal's own entries (`recovered`, `gap`) get their time from. Drafts carry the time of what they record,
//! given by the caller; the journal never stamps them.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// When something was, on this machine and boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Wall clock, nanoseconds since the Unix epoch. May jump.
    pub wall_ns: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds; comparable only within one `boot_id`.
    pub mono_ns: u64,
    /// `/proc/sys/kernel/random/boot_id`, or empty where it cannot be read.
    pub boot_id: String,
}

/// Source of [`Stamp`]s.
pub trait Clock: Send {
    /// The time now.
    fn now(&self) -> Stamp;
}

/// The machine's clocks. The boot id is read once, at construction.
#[derive(Debug, Clone)]
pub struct SystemClock {
    boot_id: String,
}

impl SystemClock {
    /// Reads the boot id.
    #[must_use]
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot_id: boot_id.trim().to_owned() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mono = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from).unwrap_or_default();
        Stamp {
            wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
            mono_ns: u64::try_from(mono.as_nanos()).unwrap_or(u64::MAX),
            boot_id: self.boot_id.clone(),
        }
    }
}

/// A clock that stands still, for tests and for reproducible logs.
impl Clock for Stamp {
    fn now(&self) -> Stamp {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_reads_this_boot_and_moves_on() {
        let clock = SystemClock::new();
        let (a, b) = (clock.now(), clock.now());
        assert_eq!(a.boot_id.len(), 36, "a uuid: {:?}", a.boot_id);
        assert!(a.wall_ns > 1_600_000_000_000_000_000 && b.mono_ns >= a.mono_ns && a.mono_ns > 0);
    }
}
