//! Whatever the entries are: nothing panics, because the daemon would read the same entries again after its restart, and whoever follows the
//! list knows what is in it.

use super::{tests::*, *};
use crate::decision::{Action, IncidentId, Verdict};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ACTIONS: [Action; 6] =
    [Action::Freeze, Action::Thaw, Action::Block, Action::Kill, Action::Notify, Action::Recapture { pid: u32::MAX }];

fn verdict() -> impl Strategy<Value = Verdict> {
    let text = prop_oneof!["[a-zé\u{1b}\u{10ffff}]{0,8}", Just("ü".repeat(600))];
    prop_oneof![
        Just(Verdict::Proved),
        prop::collection::vec(text.clone(), 0..20).prop_map(Verdict::Partial),
        text.prop_map(Verdict::Failed),
    ]
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..4u32, Just(u32::MAX - 1), Just(u32::MAX)]
}

fn record() -> impl Strategy<Value = Record> {
    let action = prop::sample::select(ACTIONS.to_vec());
    let decisions = (0..3u128, number(), number(), prop::collection::vec(action.clone(), 0..6))
        .prop_map(|(of, n, incident, actions)| decided(decision(run(of), n, incident, rule(), &actions)));
    let outcomes = (0..3u128, number(), number(), action, verdict()).prop_map(|(of, n, incident, action, verdict)| {
        came(&decided(decision(run(of), n, incident, rule(), &[action])), action, verdict)
    });
    let limited = (prop::option::of(0..3u128), any::<u64>()).prop_map(|(of, entries)| {
        Record::Limited(Limited {
            uid: 1_000,
            run: of.map(run),
            entries,
            bytes: 1,
            kinds: [("decision".to_owned(), entries)].into(),
            decisions: Vec::new(),
            beginnings: 0,
            last_decision: 0,
            last_incident: 0,
            sha256: String::new(),
        })
    });
    prop_oneof![6 => decisions, 6 => outcomes, 2 => (0..3u128).prop_map(|of| ended(run(of))), 1 => limited]
}

fn has_its_weight(list: &Incidents) -> bool {
    let mut of_users: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for incident in list.iter() {
        *of_users.entry(incident.known.owner_uid).or_default() += incident.bytes();
    }
    list.bytes == of_users.values().sum::<usize>() && list.of_users == of_users
}

/// Whoever follows the list.
#[derive(Default)]
struct Follower {
    at: u64,
    known: BTreeMap<IncidentId, Arc<Incident>>,
}

impl Follower {
    fn look(&mut self, list: &Incidents, most: usize) {
        loop {
            let since = list.since(self.at, most);
            if since.missed {
                self.at = list.revision();
                self.known = list.iter().map(|incident| (incident.id, incident.clone())).collect();
            }
            for (revision, incident) in since.changes {
                self.known.insert(incident.id, incident);
                self.at = revision;
            }
            if !since.more {
                return;
            }
        }
    }
}

proptest! {
    #[test]
    fn no_entries_make_the_list_panic_or_grow(
        records in prop::collection::vec((record(), any::<u64>(), any::<u64>(), 1..u64::MAX / 64), 0..48),
    ) {
        let mut list = Incidents::within((6, 64 << 10));
        let mut index = 0u64;
        for (record, wall_ns, mono_ns, step) in &records {
            let entry = Entry { index, wall_ns: *wall_ns, mono_ns: *mono_ns, run: Some(run(1)), record };
            list.apply(&entry, |_| Arc::default());
            index = index.saturating_add(*step);
            prop_assert!(list.iter().count() <= 6 && has_its_weight(&list));
        }
        list.cannot_read(u64::MAX);
        prop_assert!(list.since(0, 1).missed);
    }

    /// A run decides in the order of its numbers, and nothing after its end.
    #[test]
    fn whoever_follows_has_each_incident_as_the_list_has_it_and_none_open_of_a_run_that_has_ended(
        steps in prop::collection::vec((0..3u128, 0..6u8, any::<bool>()), 0..60),
        most in 1usize..4,
        tail in any::<bool>(),
    ) {
        let mut list = Incidents::within((5, 1 << 20));
        list.begins_at(0, tail);
        let (mut numbers, mut over) = (BTreeMap::<u128, (u32, u32)>::new(), BTreeSet::new());
        let mut follower = Follower::default();
        for (index, (of, kind, looks)) in (0..).zip(steps) {
            let (n, incident) = numbers.entry(of).or_default();
            if over.contains(&of) {
                continue;
            }
            let record = match kind {
                0 | 1 => {
                    (*n, *incident) = (*n + 1, *incident + 1);
                    decided(decision(run(of), *n, *incident, rule(), &[Action::Freeze]))
                }
                2 => came(
                    &decided(decision(run(of), *n, *incident, rule(), &[Action::Freeze])),
                    Action::Freeze,
                    Verdict::Proved,
                ),
                3 if *incident > 0 => {
                    *n += 1;
                    decided(decision(run(of), *n, *incident, operator("go on"), &[Action::Thaw]))
                }
                4 => came(
                    &decided(decision(run(of), *n, *incident, operator("go on"), &[Action::Thaw])),
                    Action::Thaw,
                    Verdict::Proved,
                ),
                _ => {
                    over.insert(of);
                    ended(run(of))
                }
            };
            apply(&mut list, index, &record);
            if looks {
                follower.look(&list, most);
            }
        }
        follower.look(&list, most);
        for incident in list.iter() {
            prop_assert_eq!(follower.known.get(&incident.id).map(|known| known.revision), Some(incident.revision));
        }
        for incident in follower.known.values().filter(|incident| incident.is_open()) {
            prop_assert!(!over.contains(&incident.run.0.as_u128()), "{:?}", incident.id);
        }
    }
}
