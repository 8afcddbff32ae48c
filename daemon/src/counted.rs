//! A count of things that are under way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Counts one more. Returns how many there were before it.
    pub fn one_of(all: &Arc<AtomicUsize>) -> (usize, Counted) {
        (all.fetch_add(1, Ordering::Relaxed), Counted(all.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
