//! When a metric that a rule needs is missing: nobody reported it within its grace after the start, or no more for longer
//! than its `stale`.
//!
//! ```text
//! started, metric, tick ─► Silence ─► Input::Silent, Input::Missing ─► engine (on_blind), audit log (gap)
//! ```
//!
//! Owned by the pipeline, like [`crate::xid::Storms`]: what it finds enters the engine as an input, so that a recording holds
//! it, and a recording from before there was such an input replays to what was decided then. While a run is frozen or suspended it
//! cannot report, and while the daemon stands still nobody can: that time does not count. Invariant: what a tick finds of one run is
//! one input, so that the work of a tick is that of the metrics, whatever the policy of the run.

use crate::{
    input::{Input, Missing, Run, Silent, named},
    policy::{Policy, diagnostic::nearest},
    subject::RunId,
    time::{MonoTime, Span},
};
use std::collections::{BTreeMap, BTreeSet};

/// Without `stale`, a metric is missing after this many of its usual intervals, and not before its grace.
pub const USUAL_TIMES: u64 = 10;
/// Names of other metrics that are remembered for suggestions.
const NAMES: usize = 64;
/// Metrics of one input that have a suggestion: each is compared with all these names.
const SUGGESTIONS: usize = 8;

/// What is known of the runs' metrics.
#[derive(Debug, Default)]
pub struct Silence {
    runs: BTreeMap<RunId, Watched>,
    /// When it was last looked.
    ticked: MonoTime,
}

#[derive(Debug, Default)]
struct Watched {
    needed: BTreeMap<String, Needed>,
    others: BTreeSet<String>,
}

#[derive(Debug)]
struct Needed {
    rules: Vec<String>,
    grace: Span,
    stale: Option<Span>,
    /// From when on its absence counts.
    from: MonoTime,
    /// The last value, and the interval at which values usually come.
    last: Option<MonoTime>,
    usual: Option<Span>,
    silent: bool,
}

impl Silence {
    /// A run is judged from now on.
    pub fn started(&mut self, run: &Run, policy: &Policy) {
        let mut watched = Watched::default();
        for rule in &policy.rules {
            let (grace, stale) = (policy.grace(rule), policy.stale(rule));
            for metric in rule.when.awaited_metrics() {
                let needed = watched.needed.entry(metric.to_owned()).or_insert_with(|| Needed {
                    rules: Vec::new(),
                    grace,
                    stale,
                    from: run.registered,
                    last: None,
                    usual: None,
                    silent: false,
                });
                needed.rules.push(rule.id.clone());
                // Of several rules on one metric the strictest counts.
                needed.grace = needed.grace.min(grace);
                needed.stale = match (needed.stale, stale) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
        if !watched.needed.is_empty() {
            self.runs.insert(run.id, watched);
        }
    }

    /// A run has ended.
    pub fn ended(&mut self, run: RunId) {
        self.runs.remove(&run);
    }

    /// A value of a run's metric came; an input where it had been missing.
    pub fn heard(&mut self, run: RunId, metric: &str, at: MonoTime) -> Option<Silent> {
        let watched = self.runs.get_mut(&run)?;
        let Some(needed) = watched.needed.get_mut(metric) else {
            if watched.others.len() < NAMES && !watched.others.contains(metric) {
                watched.others.insert(metric.to_owned());
            }
            return None;
        };
        if let Some(last) = needed.last {
            let now = at.since(last).0;
            let usual = needed.usual.map_or(now, |usual| usual.0 - usual.0 / 8 + now / 8);
            needed.usual = Some(Span(usual));
        }
        needed.last = Some(at);
        needed.from = needed.from.max(at);
        if !std::mem::take(&mut needed.silent) {
            return None;
        }
        let rules = named(&needed.rules);
        Some(Silent { seq: 0, at, run, metric: metric.to_owned(), rules, why: None })
    }

    /// The daemon stood still for this long until `at`: nothing could be reported.
    pub fn paused(&mut self, at: MonoTime, length: Span) {
        self.ticked = self.ticked.skip(length, at);
        self.runs
            .values_mut()
            .flat_map(|watched| watched.needed.values_mut())
            .for_each(|needed| needed.skip(at, length));
    }

    /// What is missing now and was not before: at most one input of each run. `frozen` and `suspended` say which runs cannot report: for
    /// a run that failsafe froze, the time begins anew; the time in which it is suspended is taken away.
    pub fn tick(
        &mut self,
        now: MonoTime,
        frozen: impl Fn(RunId) -> bool,
        suspended: impl Fn(RunId) -> bool,
    ) -> Vec<Input> {
        let since = now.since(std::mem::replace(&mut self.ticked, now));
        let mut out = Vec::new();
        for (run, watched) in &mut self.runs {
            let (frozen, suspended) = (frozen(*run), suspended(*run));
            let (mut metrics, mut rules) = (BTreeMap::new(), BTreeSet::new());
            for (metric, needed) in &mut watched.needed {
                if frozen {
                    needed.from = now;
                    continue;
                }
                if suspended {
                    needed.skip(now, since);
                }
                // What is known to be missing costs nothing more.
                if needed.silent || !needed.is_missing(now) {
                    continue;
                }
                let near = if metrics.len() < SUGGESTIONS { close(metric, &watched.others) } else { None };
                metrics.insert(metric.clone(), needed.why(metric, now, near));
                rules.extend(needed.rules.iter().map(String::as_str));
                needed.silent = true;
            }
            out.extend(input(*run, now, metrics, named(rules)));
        }
        out
    }
}

/// `None`: nothing is missing.
fn input(run: RunId, at: MonoTime, mut metrics: BTreeMap<String, String>, rules: Vec<String>) -> Option<Input> {
    if metrics.len() > 1 {
        return Some(Input::Missing(Missing { seq: 0, at, run, metrics, rules }));
    }
    let (metric, why) = metrics.pop_first()?;
    Some(Input::Silent(Silent { seq: 0, at, run, metric, rules, why: Some(why) }))
}

impl Needed {
    /// For this long until `at` nothing could come.
    fn skip(&mut self, at: MonoTime, length: Span) {
        self.from = self.from.skip(length, at);
        self.last = self.last.map(|last| last.skip(length, at));
    }

    fn is_missing(&self, now: MonoTime) -> bool {
        now.since(self.from) > if self.last.is_some() { self.limit() } else { self.grace }
    }

    /// `near`: a metric that the run reports and that was probably meant.
    fn why(&self, metric: &str, now: MonoTime, near: Option<&str>) -> String {
        let quiet = now.since(self.from);
        if self.last.is_some() {
            return format!("no value for {quiet} (limit {})", self.limit());
        }
        let near = near.map(|near| format!("; the run reports `{near}`, the rule needs `{metric}`"));
        format!("no value in {quiet} (grace {}){}", self.grace, near.unwrap_or_default())
    }

    fn limit(&self) -> Span {
        let usual = Span(self.usual.unwrap_or_default().0.saturating_mul(USUAL_TIMES));
        self.stale.unwrap_or(self.grace.max(usual))
    }
}

/// The reported name that was probably meant: the same but for case, the same last part (`train/loss`), or one nearly the same.
fn close<'a>(metric: &str, others: &'a BTreeSet<String>) -> Option<&'a str> {
    let last = |name: &str| name.rsplit(['/', '.']).next().unwrap_or_default().to_lowercase();
    let same = others.iter().find(|other| other.eq_ignore_ascii_case(metric));
    let same = same.or_else(|| others.iter().find(|other| last(other) == last(metric)));
    same.map(String::as_str).or_else(|| nearest(metric, others.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests;
