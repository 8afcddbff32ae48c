//! What an XID makes of its GPU, by the catalogue and by what came before it.

use super::{level::Level, thresholds::Thresholds, wear::in_words};
use crate::{
    time::Span,
    xid::{Advice, Catalogue, HealthImpact},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// An XID that follows others is looked at beside those of this long before it.
const WITH_OTHERS: Span = Span::from_secs(60);
/// The same XID of the same process within this is one crash.
const BURST: Span = Span::from_secs(60);
/// Repetitions are counted over this.
const DAY: Span = super::checks::DAY;
/// Instants remembered of one XID.
const KEPT: usize = 64;
/// XIDs remembered: hostile numbers cannot fill the memory.
const CODES: usize = 128;
/// A line of the kernel's log and NVML's event of the same XID are this far apart at most.
const SAME_WITHIN: Span = Span::from_secs(5);
/// The reason's code where those that make a GPU unhealthy come too often. NVSentinel's advice is to take the GPU out and ask
/// NVIDIA.
pub(super) const FATAL_REPEATED: &str = "xid-fatal-repeated";

/// XIDs of one GPU. Times are of the wall clock: they are kept over a boot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Xids {
    /// The last that came of no other, ns since the epoch.
    last_other: Option<i64>,
    /// When each came, oldest first: once for each crash.
    came: BTreeMap<u64, VecDeque<i64>>,
    /// The last crash of each.
    #[serde(default)]
    bursts: BTreeMap<u64, Burst>,
    /// When those came alone that follow others.
    #[serde(default)]
    alone: BTreeMap<u64, VecDeque<i64>>,
    /// When the kernel log last stated what each is.
    #[serde(default)]
    explained: BTreeMap<u64, i64>,
    /// When those came that make the GPU unhealthy. An order that resets its health does not clear it: that each was dealt
    /// with is no answer to why they come.
    fatal: VecDeque<i64>,
}

/// Records of one XID that come of one crash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Burst {
    start: i64,
    last: i64,
    /// Processes that the kernel log names.
    pids: BTreeSet<u32>,
}

impl Burst {
    fn covers(&self, wall_ns: i64) -> bool {
        Span(self.start.abs_diff(wall_ns)) < BURST
    }
}

/// A reason that an XID gives.
pub(super) struct XidReason {
    pub code: String,
    pub level: Level,
    pub text: String,
    pub advice: Advice,
}

/// What came of an XID.
pub(super) struct Verdict {
    pub found: Vec<XidReason>,
    /// Codes of reasons that are over.
    pub over: Vec<String>,
}

impl Xids {
    /// An XID. `standing`: one that makes the GPU unhealthy is not resolved yet.
    pub(super) fn hear(
        &mut self,
        catalogue: &Catalogue,
        thresholds: &Thresholds,
        code: u64,
        standing: bool,
        wall_ns: i64,
    ) -> Verdict {
        let mut verdict = Verdict { found: Vec::new(), over: Vec::new() };
        let named = catalogue.describe(code);
        let (mut times, new) = self.count(code, wall_ns);
        let Some(xid) = catalogue.get(code) else {
            self.last_other = Some(wall_ns);
            verdict.found.push(XidReason {
                code: reason(code),
                level: Level::Degraded,
                text: named,
                advice: Advice::ContactSupport,
            });
            return verdict;
        };
        verdict.over = xid.cancels.iter().map(|other| reason(*other)).collect();
        if xid.follows {
            // An XID that follows its cause has no effect of its own. Alone, it has the effect in the catalogue.
            if self.last_other.is_some_and(|other| since(wall_ns, other) <= WITH_OTHERS) {
                return verdict;
            }
            let alone = self.alone.entry(code).or_default();
            times = if new || alone.is_empty() { remember(alone, wall_ns, DAY) } else { alone.len() };
        } else {
            self.last_other = Some(wall_ns);
        }
        let level = match xid.harm {
            // The kernel log stated what it is, and that decided.
            _ if self.explained.get(&code).is_some_and(|explained| is_same(*explained, wall_ns)) => None,
            HealthImpact::None => None,
            HealthImpact::Degraded => Some(Level::Degraded),
            HealthImpact::Unhealthy => Some(Level::Unhealthy),
        };
        if let Some(level) = level {
            let text = format!("{named}: {}", xid.meaning);
            verdict.found.push(XidReason { code: reason(code), level, text, advice: xid.action });
        }
        if xid.harm == HealthImpact::Unhealthy {
            verdict.found.extend(self.fatal(thresholds, &named, standing, wall_ns));
        }
        verdict.found.extend(repeated(catalogue, code, times));
        verdict
    }

    /// The process of an XID that was heard. The same XID of several processes counts for each of them, also within a moment.
    pub(super) fn process(&mut self, catalogue: &Catalogue, code: u64, pid: u32, wall_ns: i64) -> Option<XidReason> {
        // One that follows others comes for each process of a job that is killed.
        if catalogue.get(code).is_none_or(|xid| xid.follows) {
            return None;
        }
        let burst = self.bursts.get_mut(&code).filter(|burst| burst.covers(wall_ns) && burst.pids.len() < KEPT)?;
        // The first process is the one that is counted already.
        let first = burst.pids.is_empty();
        if !burst.pids.insert(pid) || first {
            return None;
        }
        let times = remember(self.came.entry(code).or_default(), wall_ns, DAY);
        repeated(catalogue, code, times)
    }

    /// Counts an XID that makes the GPU unhealthy. One that comes while an earlier one is not resolved is of the same failure.
    pub(super) fn fatal(
        &mut self,
        thresholds: &Thresholds,
        named: &str,
        standing: bool,
        wall_ns: i64,
    ) -> Option<XidReason> {
        if standing {
            return None;
        }
        let most = thresholds.fatal();
        let fatal = remember(&mut self.fatal, wall_ns, most.within);
        (i64::try_from(fatal).unwrap_or(i64::MAX) >= most.bound).then(|| XidReason {
            code: FATAL_REPEATED.to_owned(),
            level: Level::Unhealthy,
            text: format!("{fatal} fatal XIDs within {} on this GPU, the last {named}", in_words(most.within)),
            advice: Advice::ContactSupport,
        })
    }

    /// The kernel log stated what this XID is: its number alone decides nothing.
    pub(super) fn explain(&mut self, code: u64, wall_ns: i64) {
        if self.explained.len() < CODES || self.explained.contains_key(&code) {
            self.explained.insert(code, wall_ns);
        }
    }

    /// Whether an XID of that time was heard already, perhaps from another sensor.
    pub(super) fn knows(&self, code: u64, wall_ns: i64) -> bool {
        let counted = self.came.get(&code).and_then(VecDeque::back).copied();
        let last = counted.max(self.bursts.get(&code).map(|burst| burst.last));
        last.is_some_and(|last| last >= wall_ns || since(wall_ns, last) <= SAME_WITHIN)
    }

    /// Forgets what came, but for how often it was fatal.
    pub(super) fn reset(&mut self) {
        (self.last_other, self.came, self.alone) = (None, BTreeMap::new(), BTreeMap::new());
        self.bursts.clear();
    }

    /// How often this one came within a day, with this time, and whether it is a crash of its own.
    fn count(&mut self, code: u64, wall_ns: i64) -> (usize, bool) {
        if self.came.len() >= CODES && !self.came.contains_key(&code) {
            let oldest = self.came.iter().min_by_key(|(_, came)| came.back().copied()).map(|(code, _)| *code);
            oldest.map(|oldest| (self.came.remove(&oldest), self.bursts.remove(&oldest)));
        }
        let came = self.came.entry(code).or_default();
        match self.bursts.get_mut(&code).filter(|burst| burst.covers(wall_ns)) {
            Some(burst) => {
                burst.last = burst.last.max(wall_ns);
                (came.len(), false)
            }
            None => {
                self.bursts.insert(code, Burst { start: wall_ns, last: wall_ns, pids: BTreeSet::new() });
                (remember(came, wall_ns, DAY), true)
            }
        }
    }
}

/// The reason of an XID that came as often as means broken hardware.
fn repeated(catalogue: &Catalogue, code: u64, times: usize) -> Option<XidReason> {
    let xid = catalogue.get(code)?;
    let least = usize::try_from(xid.repeated?).unwrap_or(usize::MAX);
    (times >= least).then(|| {
        let named = catalogue.describe(code);
        let alone = if xid.follows { " without another XID" } else { "" };
        XidReason {
            code: format!("{}-repeated", reason(code)),
            level: Level::Degraded,
            text: format!("{named}, {times} times within a day on this GPU{alone}: perhaps its hardware"),
            advice: Advice::InspectHardware,
        }
    })
}

/// Adds an instant to those within that time; how many they are then.
fn remember(came: &mut VecDeque<i64>, wall_ns: i64, within: Span) -> usize {
    came.push_back(wall_ns);
    while came.len() > KEPT || came.front().is_some_and(|first| since(wall_ns, *first) > within) {
        came.pop_front();
    }
    came.len()
}

/// From `before` to `now`; nothing where the clock was set back.
fn since(now: i64, before: i64) -> Span {
    Span(u64::try_from(now.saturating_sub(before)).unwrap_or(0))
}

/// Whether two sensors report the same XID, by the times at which they heard it.
pub(super) fn is_same(one: i64, other: i64) -> bool {
    Span(one.abs_diff(other)) <= SAME_WITHIN
}

/// The reason's code of an XID.
pub(super) fn reason(code: u64) -> String {
    format!("xid-{code}")
}

/// Whether the reason is one XID's.
pub(super) fn is_reason(code: &str) -> bool {
    code.strip_prefix("xid-").is_some_and(|number| number.parse::<u64>().is_ok())
}
