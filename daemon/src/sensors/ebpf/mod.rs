//! The eBPF sensor: reads what the programs of [`crate::guard`] report.
//!
//! Reading only: nothing here writes a map that changes what a program refuses. It borrows from the guard what it reads: the maps of
//! the ring buffer ([`crate::guard::Ring`]) and the sums of the counters. [`EventReader`] runs on a thread of its own and hands each
//! event to a callback.
//!
//! Invariants:
//! - every event takes a number; what the ring could not hold is counted, so `delivered + lost = taken`;
//! - times are `CLOCK_MONOTONIC` nanoseconds, except process starts (`CLOCK_BOOTTIME`).

mod counters;
mod events;
mod ops;

pub use counters::{RunCounters, leavers, leaving, sample};
pub use events::{Event, EventReader, Held, LOOKS_EVERY, Move, Net, NetOp, NetVerdict, Subject, Way, What, decode};
pub use ops::{DnsDoubt, FileKind, Gain, Memory, Op, OpWhat, Protected};
