//! Canaries: a candidate that a share of the new runs of a named policy gets, and the criteria that promote or withdraw it.
//!
//! ```text
//! a new run of the name ─► draws ─► candidate or control ─► Arm (runs, ended, contained) ─► Terms::judge ─► wait, promote, withdraw
//! ```
//! Pure: time and the secret are given. Invariants: the same run of a canary is always drawn alike; nobody who names a run can choose
//! without the secret; what is not known yet never promotes; whenever both hold, it is withdrawn.

mod criterion;

pub use criterion::{BadCriterion, Criterion, Measure, Op};

use crate::time::Span;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Shares are in millionths.
pub const WHOLE: u32 = 1_000_000;
/// Most criteria of a kind.
pub const MOST_CRITERIA: usize = 8;
/// The label of a run that was drawn: the canary, and `candidate` or `control`.
pub const LABEL: &str = "failsafe.canary";

/// Which policy a run got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The candidate.
    Candidate,
    /// The policy in force.
    Control,
}

impl Side {
    /// The name in labels and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Candidate => "candidate",
            Side::Control => "control",
        }
    }

    /// The value of [`LABEL`].
    #[must_use]
    pub fn label(self, canary: &str) -> String {
        format!("{canary} {}", self.name())
    }

    /// The canary that a label is of, and the side.
    #[must_use]
    pub fn of_label(label: &str) -> Option<(&str, Side)> {
        let (canary, side) = label.split_once(' ')?;
        match side {
            "candidate" => Some((canary, Side::Candidate)),
            "control" => Some((canary, Side::Control)),
            _ => None,
        }
    }
}

/// The side of a run. `who` says which run it is, and is the same when it is started again.
#[must_use]
pub fn draw(secret: &[u8; 32], canary: &str, who: &[&str], share_ppm: u32) -> Side {
    let mut hash = Sha256::new_with_prefix(secret);
    for part in std::iter::once(&canary).chain(who) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    let drawn = u64::from_le_bytes([a, b, c, d, e, f, g, h]) % u64::from(WHOLE);
    if drawn < u64::from(share_ppm) { Side::Candidate } else { Side::Control }
}

/// How a canary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// A share of the new runs gets the candidate.
    Running,
    /// All new runs get it.
    Promoted,
    /// No new run gets it.
    Withdrawn,
    /// No new run is drawn: the policy in force was replaced.
    Over,
}

impl Stage {
    /// Whether no run is drawn any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Stage::Withdrawn | Stage::Over)
    }

    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Running => "running",
            Stage::Promoted => "promoted",
            Stage::Withdrawn => "withdrawn",
            Stage::Over => "over",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The counts of the runs of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Runs that began.
    pub runs: u64,
    /// Those that have ended.
    pub ended: u64,
    /// Those that their policy contained at least once: froze, killed or cut off from the network.
    pub contained: u64,
}

/// The counts of both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arms {
    /// The runs with the candidate.
    pub candidate: Arm,
    /// The others.
    pub control: Arm,
}

impl Arms {
    /// Of a side.
    pub fn of(&mut self, side: Side) -> &mut Arm {
        match side {
            Side::Candidate => &mut self.candidate,
            Side::Control => &mut self.control,
        }
    }
}

/// On what terms a candidate is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The share of the new runs that gets it, in millionths.
    pub share_ppm: u32,
    /// It is promoted only after so many of its runs have ended.
    pub runs_at_least: u64,
    /// And after all of `promote_if` held for so long at a stretch.
    pub hold: Span,
    /// Promoted by the daemon when all of these hold; none: only by command.
    pub promote_if: Vec<Criterion>,
    /// Withdrawn when one of these holds.
    pub withdraw_if: Vec<Criterion>,
}

/// What follows from the counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nothing yet, and what is missing.
    Wait(String),
    /// All criteria are met.
    Promote(String),
    /// One criterion says so.
    Withdraw(String),
}

/// Terms that are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTerms {
    /// Not a share.
    #[error("share: expected more than 0% and at most 90%, in steps of 0.0001%; the rest is compared with")]
    Share,
    /// Too many.
    #[error("{0}: expected at most {MOST_CRITERIA} criteria")]
    TooMany(&'static str),
    /// Nothing would ever withdraw it.
    #[error("withdraw_if: expected at least one criterion")]
    NeverWithdrawn,
    /// The wrong way round.
    #[error("{field}: `{criterion}`: expected {expected}")]
    Op {
        /// The field.
        field: &'static str,
        /// What was given.
        criterion: Criterion,
        /// What is.
        expected: &'static str,
    },
    /// Not a number of runs.
    #[error("runs_at_least: expected 1 to 1000000")]
    Runs,
    /// Longer than a year.
    #[error("for: expected at most 365 days")]
    Hold,
}

impl Terms {
    /// Whether they can be used.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), BadTerms> {
        let Terms { share_ppm, runs_at_least, hold, promote_if, withdraw_if } = self;
        if !(1..=WHOLE / 10 * 9).contains(share_ppm) {
            return Err(BadTerms::Share);
        }
        if !(1..=1_000_000).contains(runs_at_least) {
            return Err(BadTerms::Runs);
        }
        if *hold > Span::from_secs(365 * 86_400) {
            return Err(BadTerms::Hold);
        }
        if withdraw_if.is_empty() {
            return Err(BadTerms::NeverWithdrawn);
        }
        let all = [
            ("promote_if", promote_if, Op::AtMost, "`<=`, as in `excess <= 0`"),
            ("withdraw_if", withdraw_if, Op::Above, "`>`, as in `excess > 2`"),
        ];
        for (field, criteria, op, expected) in all {
            if criteria.len() > MOST_CRITERIA {
                return Err(BadTerms::TooMany(field));
            }
            if let Some(wrong) = criteria.iter().find(|criterion| criterion.op != op) {
                return Err(BadTerms::Op { field, criterion: *wrong, expected });
            }
        }
        Ok(())
    }

    /// Whether all of `promote_if` hold now: how long at a stretch is counted by the caller.
    #[must_use]
    pub fn holds(&self, arms: &Arms) -> bool {
        self.promote_if.iter().all(|criterion| criterion.holds(arms) == Some(true))
    }

    /// What follows from the counts; `held`: for how long all of `promote_if` have held.
    #[must_use]
    pub fn judge(&self, arms: &Arms, held: Span) -> Finding {
        let shown = |criterion: &Criterion| format!("{criterion} ({} = {})", criterion.measure, criterion.show(arms));
        if let Some(met) = self.withdraw_if.iter().find(|criterion| criterion.holds(arms) == Some(true)) {
            return Finding::Withdraw(shown(met));
        }
        if self.promote_if.is_empty() {
            return Finding::Wait("it has no criteria by which it is promoted: promote it by command".into());
        }
        if let Some(open) = self.promote_if.iter().find(|criterion| criterion.holds(arms) != Some(true)) {
            return Finding::Wait(format!("not met: {}", shown(open)));
        }
        let (ended, least) = (arms.candidate.ended, self.runs_at_least);
        if ended < least {
            return Finding::Wait(format!("{ended} of {least} runs with the candidate have ended"));
        }
        if held < self.hold {
            let minutes = |span: Span| span.0 / 60_000_000_000;
            let (held, hold) = (minutes(held), minutes(self.hold));
            return Finding::Wait(format!("the criteria have held for {held} of {hold} minutes"));
        }
        let all: Vec<String> = self.promote_if.iter().map(shown).collect();
        Finding::Promote(all.join(", "))
    }

    /// Whether a person has to decide: as many runs have ended as were asked for, and the criteria decide nothing. Those of a promotion
    /// are not met, or there are none and the time is over. `held` as for [`Terms::judge`].
    #[must_use]
    pub fn waits_for_command(&self, arms: &Arms, held: Span) -> bool {
        let waits = matches!(self.judge(arms, held), Finding::Wait(_));
        let decides_later = !self.promote_if.is_empty() && self.holds(arms);
        let too_early = self.promote_if.is_empty() && held < self.hold;
        waits && arms.candidate.ended >= self.runs_at_least && !decides_later && !too_early
    }
}

#[cfg(test)]
mod tests;
