//! Mirror of `include/abi.h`, which defines and explains every field.
//!
//! All types are plain data: `#[repr(C)]`, `Copy`, free of implicit padding and of invalid bit patterns (kinds and
//! verdicts are integers here; the daemon turns them into enums). `tests/layout.rs` holds sizes and offsets against
//! the BTF of the object.

mod early;
mod events;
mod maps;
mod numbers;
mod plain;
mod sizes;
mod syscalls;

pub use early::{Early, EarlyRow, EarlySeen, EarlySlot};
pub use events::{Exec, Exit, Fork, Hdr, Move, Net, Oom, Op, Sys};
pub use maps::{
    Budget, Control, Counters, Effects, Key, LearntKey, Leaver, Lpm4, Lpm6, Member, Occupant, PathKey, Port, Ports,
    Reader, RunCfg, Tally, UID_UNKNOWN, Watchdog,
};
pub use numbers::*;
pub use plain::{Layout, Plain};
pub use sizes::*;
pub use syscalls::SYSCALLS;

/// Changes with every change of `include/abi.h`; part of the path under which maps are pinned.
pub const VERSION: u32 = 12;

/// Every mirrored type, of which the layout is compared with the object.
#[must_use]
pub fn layout() -> Vec<Layout> {
    [maps::layout(), events::layout(), early::layout()].into_iter().flatten().collect()
}
