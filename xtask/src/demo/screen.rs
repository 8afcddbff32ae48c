//! The timeline: what happened, and when since the demo began, on the kernel's monotonic clock, which is also the clock of
//! every record.

use failsafe_core::MonoTime;
use nix::time::{ClockId, clock_gettime};
use std::fmt::Display;
use std::time::Duration;

/// Where the timeline is printed.
#[derive(Clone, Copy)]
pub struct Screen {
    begin: MonoTime,
}

impl Screen {
    /// Time zero is now.
    pub fn start() -> Screen {
        Screen { begin: now() }
    }

    /// Since time zero.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(now().since(self.begin).0)
    }

    /// The head of a part.
    pub fn title(&self, text: impl Display) {
        println!("\n== {text}");
    }

    /// A line of now.
    pub fn say(&self, text: impl Display) {
        self.at(now(), text);
    }

    /// A line of `when`.
    pub fn at(&self, when: MonoTime, text: impl Display) {
        println!("{:>9.4} s  {text}", when.since(self.begin).0 as f64 / 1e9);
    }

    /// A further line of the same time.
    pub fn more(&self, text: impl Display) {
        println!("             {text}");
    }

    /// What another program printed, set off.
    pub fn quote(&self, text: &str) {
        text.trim_end().lines().for_each(|line| println!("    | {line}"));
    }
}

fn now() -> MonoTime {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    MonoTime(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
