//! Event sets: which events a client has asked for and which it has had. Pure.
//!
//! An event is due to a set once its time has come, unless it lay in the past when the
//! GPU was registered. One that a live change adds to the file is due even when
//! its time is past, so that a test can say "now". As on Linux, each event comes
//! with its own data, oldest first.

use crate::scenario::{Event, Scenario};
use std::collections::{BTreeMap, BTreeSet};

/// One set of a client.
#[derive(Debug, Default)]
pub(crate) struct EventSet {
    /// By UUID, since an index may mean another GPU after a change of the scenario.
    registered: BTreeMap<String, u64>,
    had: BTreeSet<Key>,
}

/// What tells one event of a GPU from another: equal ones are numbered.
type Key = (String, u64, u64, u64, usize);

/// An event on its way to the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Due {
    pub(crate) gpu: usize,
    pub(crate) event: Event,
}

impl EventSet {
    /// Asks for events of the kinds in `mask` on `gpu`, from `t` on.
    pub(crate) fn register(&mut self, scenario: &Scenario, gpu: usize, mask: u64, t: f64) {
        let Some(spec) = scenario.gpus.get(gpu) else { return };
        let first = !self.registered.contains_key(&spec.uuid);
        *self.registered.entry(spec.uuid.clone()).or_default() |= mask;
        if first {
            self.had.extend(keyed(scenario, gpu).filter(|(_, event)| event.at < t).map(|(key, _)| key));
        }
    }

    /// Takes the oldest event due at `t`.
    pub(crate) fn take(&mut self, scenario: &Scenario, t: f64) -> Option<Due> {
        let (key, due) = self
            .pending(scenario)
            .filter(|(_, due)| due.event.at <= t)
            .min_by(|(_, a), (_, b)| a.event.at.total_cmp(&b.event.at))?;
        self.had.insert(key);
        Some(due)
    }

    /// When the next event after `t` comes.
    pub(crate) fn next_at(&self, scenario: &Scenario) -> Option<f64> {
        self.pending(scenario).map(|(_, due)| due.event.at).min_by(f64::total_cmp)
    }

    fn pending<'a>(&'a self, scenario: &'a Scenario) -> impl Iterator<Item = (Key, Due)> + 'a {
        let gpus = scenario.gpus.iter().enumerate();
        let asked = gpus.filter_map(|(gpu, spec)| self.registered.get(&spec.uuid).map(|mask| (gpu, *mask)));
        asked.flat_map(move |(gpu, mask)| {
            keyed(scenario, gpu)
                .filter(move |(key, event)| event.kind & mask != 0 && !self.had.contains(key))
                .map(move |(key, event)| (key, Due { gpu, event }))
        })
    }
}

fn keyed(scenario: &Scenario, gpu: usize) -> impl Iterator<Item = (Key, Event)> + '_ {
    let spec = &scenario.gpus[gpu];
    let events = &spec.table.events;
    events.iter().enumerate().map(move |(index, event)| {
        let twin = events[..index].iter().filter(|other| *other == event).count();
        ((spec.uuid.clone(), event.at.to_bits(), event.kind, event.data, twin), *event)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::consts::event;
    use std::fs;

    fn scenario(events: &str) -> Scenario {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        fs::write(&path, format!("[[gpu]]\nmodel = \"H100\"\n{events}\n[[gpu]]\nmodel = \"H100\"\n")).unwrap();
        Scenario::load(&path).unwrap()
    }

    fn xid(at: f64, xid: u32) -> String {
        format!("[[gpu.event]]\nat = {at}\nxid = {xid}\n")
    }

    fn taken(set: &mut EventSet, scenario: &Scenario, t: f64) -> Vec<u64> {
        std::iter::from_fn(|| set.take(scenario, t)).take(10).map(|due| due.event.data).collect()
    }

    #[test]
    fn events_come_once_in_order_when_due() {
        let it = scenario(&(xid(3.0, 79) + &xid(2.0, 48) + &xid(3.0, 79) + &xid(0.5, 13)));
        let mut set = EventSet::default();
        set.register(&it, 0, event::XID, 1.0);
        assert_eq!(set.next_at(&it), Some(2.0));
        assert_eq!(taken(&mut set, &it, 1.9), [0; 0], "13 lay in the past at registration");
        assert_eq!(taken(&mut set, &it, 3.0), [48, 79, 79]);
        assert_eq!(taken(&mut set, &it, 9.0), [0; 0]);
        assert_eq!(set.next_at(&it), None);
    }

    #[test]
    fn only_registered_kinds_and_gpus() {
        let it = scenario("[[gpu.event]]\nat = 1\nkind = \"pstate\"\n");
        let mut set = EventSet::default();
        set.register(&it, 1, u64::MAX, 0.0);
        set.register(&it, 0, event::XID, 0.0);
        assert_eq!(set.take(&it, 5.0), None);
        set.register(&it, 0, event::PSTATE, 2.0);
        assert_eq!(set.take(&it, 5.0).map(|due| due.event.kind), Some(event::PSTATE));
    }

    #[test]
    fn an_event_added_live_is_due_at_once() {
        let before = scenario(&xid(1.0, 31));
        let mut set = EventSet::default();
        set.register(&before, 0, event::XID, 5.0);
        let after = scenario(&(xid(1.0, 31) + &xid(0.0, 94)));
        assert_eq!(taken(&mut set, &after, 6.0), [94]);
    }
}
