//! What the kernel did in the recording, judged anew for another policy, and how far that goes.

use failsafe_core::{Input, Policy, Value, replay::Recorded};
use failsafe_matchers::rejudge::{Judged, Rejudge, Unknown};
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, fmt::Write};

/// Verdicts of recorded events under another policy.
pub(super) struct Verdicts {
    by: Rejudge,
    counts: Counts,
}

/// How many verdicts were judged anew.
#[derive(Debug, Default)]
pub(super) struct Counts {
    recomputed: u64,
    changed: u64,
    unreported: u64,
    kept: BTreeMap<Unknown, u64>,
}

impl Verdicts {
    pub(super) fn by(policy: &Policy) -> Verdicts {
        Verdicts { by: Rejudge::by(policy), counts: Counts::default() }
    }

    /// The entry as it would be; `None`: the event would not have been reported.
    pub(super) fn judge(&mut self, mut entry: Recorded) -> Option<Recorded> {
        let Recorded::Input(Input::Signal(signal)) = &mut entry else { return Some(entry) };
        let Value::Event(event) = &mut signal.value else { return Some(entry) };
        match self.by.judge(event) {
            Judged::NoVerdict => {}
            Judged::As(judged) => {
                self.counts.recomputed += 1;
                self.counts.changed += u64::from(judged != *event);
                *event = judged;
            }
            Judged::Unreported => {
                self.counts.recomputed += 1;
                self.counts.unreported += 1;
                return None;
            }
            Judged::Unknown(why) => *self.counts.kept.entry(why).or_default() += 1,
        }
        Some(entry)
    }

    pub(super) fn counts(self) -> Counts {
        self.counts
    }
}

impl Counts {
    pub(super) fn text(&self) -> String {
        let Counts { recomputed, changed, unreported, kept } = self;
        let mut out = format!("verdicts   {recomputed} recomputed: {changed} changed, {unreported} events left out\n");
        let mut kept: Vec<String> = kept.iter().map(|(why, n)| format!("{n} {}", why.words())).collect();
        if !kept.is_empty() {
            kept.insert(0, "not recomputed, as recorded:".to_owned());
        }
        for line in kept {
            let _ = writeln!(out, "           {line}");
        }
        out
    }

    /// Verdicts that are as recorded and that `new` could decide by, in lines.
    pub(super) fn kept_lines(&self, old: &Policy, new: &Policy) -> Vec<String> {
        let line = |(why, n): (&Unknown, &u64)| format!("{n} verdicts, kept as recorded: {}", why.words());
        self.kept.iter().filter(|(why, _)| why.matters(old, new)).map(line).collect()
    }

    pub(super) fn json(&self) -> Json {
        let kept = self.kept.iter().map(|(why, n)| json!({ "events": n, "why": why.words() }));
        json!({
            "recomputed": self.recomputed,
            "changed": self.changed,
            "left_out": self.unreported,
            "not_recomputed": kept.collect::<Vec<_>>(),
        })
    }
}
