//! What the [queue](super::queue) is made of. `tests/models` has a neighbour of the same names in its place, with which loom runs the
//! queue through every order of its threads' steps.

pub use crossbeam_queue::ArrayQueue;
pub use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread::{self, Thread},
    time::Instant,
};
