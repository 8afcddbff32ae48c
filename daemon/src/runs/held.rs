//! Events of runs that the kernel has bound and nobody has registered: held, and judged after the registration.
//!
//! Invariants: at most [`MOST`] of each run, the first ones, in order; of no more runs than the kernel may bind.

use super::Registry;
use crate::sensors::ebpf::Event;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Events that are held of a run.
const MOST: usize = 256;

/// Those of one run.
#[derive(Debug, Default)]
pub struct Held {
    /// The first ones.
    pub events: Vec<Event>,
    /// How many more there were.
    pub lost: u64,
}

/// By slot and epoch.
#[derive(Debug, Default)]
pub(super) struct HeldEvents(Mutex<BTreeMap<(u32, u32), Held>>);

impl Registry {
    /// Takes an event of a run that is not registered yet; otherwise gives it back.
    pub fn hold(&self, event: Event) -> Option<Event> {
        let place = (event.slot, event.epoch);
        if !self.kernel.awaits(place.0, place.1) {
            return Some(event);
        }
        let mut all = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been registered in between.
        if !self.kernel.awaits(place.0, place.1) {
            return Some(event);
        }
        if !all.contains_key(&place) {
            // Of those that were released.
            all.retain(|(slot, epoch), _| self.kernel.awaits(*slot, *epoch));
        }
        let held = all.entry(place).or_default();
        if held.events.len() < MOST {
            held.events.push(event);
        } else {
            held.lost += 1;
        }
        None
    }

    /// The events of a run that the engine has now; from here on they are held no more.
    pub fn take_held(&self, slot: u32, epoch: u32) -> Held {
        let mut all = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.kernel.awaits_no_more(slot, epoch);
        all.remove(&(slot, epoch)).unwrap_or_default()
    }
}
