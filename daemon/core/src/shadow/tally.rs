//! How often two policies decided alike and otherwise, with examples.

use crate::subject::RunId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most rows.
const ROWS: usize = 128;
/// Examples of one kind of difference in a row: the latest.
const EXAMPLES: usize = 2;
/// Reasons that are listed for what is not computed.
const LACKS: usize = 64;

/// What decisions are compared by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `rule ID`, `on_blind` or `on_drift`.
    pub what: String,
    /// The actions, with `would` in front where they are not carried out.
    pub actions: String,
}

/// How two decisions, or one and none, differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Only the policy in force decided.
    OnlyEnforced,
    /// Only the shadow decided.
    OnlyShadow,
    /// The shadow decided earlier.
    Earlier,
    /// The shadow decided later.
    Later,
}

impl Difference {
    /// All of them.
    pub const ALL: [Difference; 4] =
        [Difference::OnlyEnforced, Difference::OnlyShadow, Difference::Earlier, Difference::Later];

    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Difference::OnlyEnforced => "only-enforced",
            Difference::OnlyShadow => "only-shadow",
            Difference::Earlier => "earlier",
            Difference::Later => "later",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The run.
    pub run: RunId,
    /// Its name.
    pub name: String,
    /// When, nanoseconds since the epoch: of the shadow's decision where there are two.
    pub wall_ns: i64,
    /// How much earlier or later, nanoseconds; 0 where only one decided.
    pub by_ns: u64,
    /// Why it was decided.
    pub text: String,
}

/// What is counted for one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Both decided on the same input.
    pub same: u64,
    differences: BTreeMap<Difference, (u64, VecDeque<Example>)>,
}

impl Row {
    /// How often they differed like this.
    pub fn count(&self, difference: Difference) -> u64 {
        self.differences.get(&difference).map_or(0, |(count, _)| *count)
    }

    /// Examples of it, the latest last.
    pub fn examples(&self, difference: Difference) -> impl Iterator<Item = &Example> {
        self.differences.get(&difference).into_iter().flat_map(|(_, examples)| examples)
    }

    pub(super) fn add(&mut self, difference: Difference, example: Example) {
        let (count, examples) = self.differences.entry(difference).or_default();
        *count += 1;
        if examples.len() == EXAMPLES {
            examples.pop_front();
        }
        examples.push_back(example);
    }

    /// One that was counted as a decision of one policy has found its partner.
    pub(super) fn take_back(&mut self, difference: Difference, run: RunId, wall_ns: i64) {
        if let Some((count, examples)) = self.differences.get_mut(&difference) {
            *count = count.saturating_sub(1);
            examples.retain(|example| (example.run, example.wall_ns) != (run, wall_ns));
        }
    }

    fn merge(&mut self, other: &Row) {
        self.same += other.same;
        for (difference, (count, examples)) in &other.differences {
            let (own, all) = self.differences.entry(*difference).or_default();
            *own += count;
            all.extend(examples.iter().cloned());
            all.make_contiguous().sort_by_key(|example| example.wall_ns);
            while all.len() > EXAMPLES {
                all.pop_front();
            }
        }
    }
}

/// What of the shadow could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lack {
    /// The rule; none: a section, or all of the policy.
    pub rule: Option<String>,
    /// What, and why.
    pub what: String,
}

/// What is counted of a shadow, or of several of the same two policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    rows: BTreeMap<Key, Row>,
    /// Decisions that found no row.
    pub beyond: u64,
    /// Runs.
    pub runs: u64,
    /// Inputs that were judged.
    pub inputs: u64,
    /// Inputs that were not, as the shadow could not keep up.
    pub dropped: u64,
    /// Decisions of the shadow after one that would have contained the run, which really went on.
    pub after_contained: u64,
    /// Verdicts of the kernel that are not the shadow's, as they cannot be computed: by reason.
    pub kept: BTreeMap<String, u64>,
    lacks: BTreeSet<Lack>,
    /// Lacks beyond those that are listed.
    pub more_lacks: u64,
}

impl Tally {
    /// Of one run, from its beginning.
    pub fn of_run() -> Tally {
        Tally { runs: 1, ..Tally::default() }
    }

    /// By key, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.rows.iter()
    }

    /// What could not be computed.
    pub fn lacks(&self) -> impl Iterator<Item = &Lack> {
        self.lacks.iter()
    }

    /// Notes something that cannot be computed.
    pub fn lack(&mut self, lack: Lack) {
        if self.lacks.len() < LACKS || self.lacks.contains(&lack) {
            self.lacks.insert(lack);
        } else {
            self.more_lacks += 1;
        }
    }

    /// How many decisions there were of a kind.
    pub fn total(&self, difference: Difference) -> u64 {
        self.rows.values().map(|row| row.count(difference)).sum()
    }

    /// How many decisions were the same.
    pub fn same(&self) -> u64 {
        self.rows.values().map(|row| row.same).sum()
    }

    /// Whether everything was judged and counted.
    pub fn is_complete(&self) -> bool {
        self.dropped == 0 && self.beyond == 0
    }

    /// The row, made where there is room.
    pub(super) fn row(&mut self, key: &Key) -> Option<&mut Row> {
        if !self.rows.contains_key(key) && self.rows.len() >= ROWS {
            self.beyond += 1;
            return None;
        }
        Some(self.rows.entry(key.clone()).or_default())
    }

    pub(super) fn known_row(&mut self, key: &Key) -> Option<&mut Row> {
        self.rows.get_mut(key)
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Tally) {
        for (key, row) in &other.rows {
            if let Some(own) = self.row(key) {
                own.merge(row);
            }
        }
        self.beyond += other.beyond;
        self.runs += other.runs;
        self.inputs += other.inputs;
        self.dropped += other.dropped;
        self.after_contained += other.after_contained;
        for (why, count) in &other.kept {
            *self.kept.entry(why.clone()).or_default() += count;
        }
        other.lacks.iter().cloned().for_each(|lack| self.lack(lack));
        self.more_lacks += other.more_lacks;
    }
}

/// What a shadow found, in short, for the record of its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Why it ended.
    pub why: String,
    /// Inputs that were judged.
    pub inputs: u64,
    /// Inputs that were not, as the shadow could not keep up: the counts are incomplete then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Decisions that were the same.
    pub same: u64,
    /// Decisions of the policy in force only.
    pub only_enforced: u64,
    /// Decisions of the shadow only.
    pub only_shadow: u64,
    /// Decisions that the shadow took earlier.
    pub earlier: u64,
    /// Decisions that the shadow took later.
    pub later: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Summary {
    /// Of a tally.
    pub fn of(tally: &Tally) -> Summary {
        Summary {
            why: String::new(),
            inputs: tally.inputs,
            dropped: tally.dropped,
            same: tally.same(),
            only_enforced: tally.total(Difference::OnlyEnforced),
            only_shadow: tally.total(Difference::OnlyShadow),
            earlier: tally.total(Difference::Earlier),
            later: tally.total(Difference::Later),
        }
    }
}
