//! Values of the maps that bind cgroups at their creation.

use super::{plain::plain, *};

plain! {
    /// `struct fs_early`.
    Early = "fs_early" {
        /// Provisional runs that the daemon has registered or released.
        settled: u64,
        /// The automaton's first state; 0 = off.
        start: u32,
        /// Zero.
        pad: u32,
        /// Class of each byte of a path.
        class_of: [u8; 256],
    }
    /// `struct fs_early_seen`.
    EarlySeen = "fs_early_seen" {
        /// Cgroups that were bound at their creation.
        bound: u64,
        /// Those that matched and found no free slot.
        exhausted: u64,
        /// Those that the map of runs had no room for.
        failed: u64,
    }
    /// `struct fs_early_row`.
    EarlyRow = "fs_early_row" {
        /// The next state, by class.
        next: [u16; EARLY_CLASSES],
        /// The rule of a path that ends here, from 1; 0 = none.
        rule: u32,
    }
    /// `struct fs_early_slot`.
    EarlySlot = "fs_early_slot" {
        /// Index into the per-run maps.
        slot: u32,
        /// Occupant of the slot.
        epoch: u32,
        /// [`early_state`].
        state: u32,
        /// The rule, from 1.
        rule: u32,
        /// Cgroup id of the root.
        root_id: u64,
        /// `CLOCK_MONOTONIC`, nanoseconds.
        at_ns: u64,
    }
}
