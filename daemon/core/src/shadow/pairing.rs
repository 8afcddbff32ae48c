//! Finds, for each decision of one policy, the same decision of the other: at the same input, or within a time.

use super::{Difference, Example, Key, Tally, is_compared, key, text};
use crate::{
    decision::Decision,
    policy::Policy,
    subject::RunId,
    time::{MonoTime, Span},
};
use std::collections::{BTreeMap, VecDeque};

/// Two decisions are the same, one of them late, within this time.
pub const PAIR_WITHIN: Span = Span::from_secs(600);
/// Decisions of one side and one key that may wait for a partner.
const WAITING: usize = 16;

/// Whose decisions are compared.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// The run.
    pub run: RunId,
    /// Its name.
    pub name: &'a str,
    /// The policy in force.
    pub enforced: &'a Policy,
    /// The shadow.
    pub shadow: &'a Policy,
    /// What is added to an instant to have nanoseconds since the epoch.
    pub wall_offset_ns: i64,
}

impl Of<'_> {
    fn wall_ns(&self, at: MonoTime) -> i64 {
        i64::try_from(at.0).unwrap_or(i64::MAX).saturating_add(self.wall_offset_ns)
    }
}

/// A decision that waits for its partner.
#[derive(Debug, Clone)]
struct Unpaired {
    at: MonoTime,
    wall_ns: i64,
}

/// The decisions of one run that have no partner yet.
#[derive(Debug, Clone, Default)]
pub struct Pairing {
    enforced: BTreeMap<Key, VecDeque<Unpaired>>,
    shadow: BTreeMap<Key, VecDeque<Unpaired>>,
}

impl Pairing {
    /// Takes the decisions that one input caused.
    pub fn take(&mut self, of: Of<'_>, enforced: &[Decision], shadow: &[Decision], tally: &mut Tally) {
        let mut left: Vec<(Key, &Decision)> =
            shadow.iter().filter(|one| is_compared(one)).map(|one| (key(one, of.shadow), one)).collect();
        for decision in enforced.iter().filter(|one| is_compared(one)) {
            let key = key(decision, of.enforced);
            match left.iter().position(|(other, _)| *other == key) {
                Some(at) => {
                    left.remove(at);
                    if let Some(row) = tally.row(&key) {
                        row.same += 1;
                    }
                }
                None => self.alone(of, key, decision, Difference::OnlyEnforced, tally),
            }
        }
        for (key, decision) in left {
            self.alone(of, key, decision, Difference::OnlyShadow, tally);
        }
    }

    /// A decision that the other policy did not take on this input.
    fn alone(&mut self, of: Of<'_>, key: Key, decision: &Decision, which: Difference, tally: &mut Tally) {
        let (own, others, late, of_other) = match which {
            // The shadow's came before, so it was earlier.
            Difference::OnlyEnforced => {
                (&mut self.enforced, &mut self.shadow, Difference::Earlier, Difference::OnlyShadow)
            }
            _ => (&mut self.shadow, &mut self.enforced, Difference::Later, Difference::OnlyEnforced),
        };
        let wall_ns = of.wall_ns(decision.at);
        let example =
            |wall_ns, by_ns| Example { run: of.run, name: of.name.to_owned(), wall_ns, by_ns, text: text(decision) };
        let waiting = others.get_mut(&key);
        let partner = waiting.and_then(|all| {
            all.retain(|one| decision.at.since(one.at) <= PAIR_WITHIN);
            all.pop_front()
        });
        if let Some(partner) = partner {
            if let Some(row) = tally.known_row(&key) {
                row.take_back(of_other, of.run, partner.wall_ns);
                let at = if late == Difference::Earlier { partner.wall_ns } else { wall_ns };
                row.add(late, example(at, decision.at.since(partner.at).0));
            }
            return;
        }
        if let Some(row) = tally.row(&key) {
            row.add(which, example(wall_ns, 0));
            let all = own.entry(key).or_default();
            if all.len() == WAITING {
                all.pop_front();
            }
            all.push_back(Unpaired { at: decision.at, wall_ns });
        }
    }
}
