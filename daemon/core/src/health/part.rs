//! One part: its reasons, how they come and go, and whether it is seen.

use super::PartView;
use super::{
    BLIND, CORDONED, STALE, Slot, Stamp, UNREAD,
    checks::{self, CheckResult, Checks},
    level::{Change, Happened, Level, Reason, Target, Until},
    listing::{MISSING, UNREACHABLE},
    recovery,
    thresholds::Thresholds,
    wear::{self, Wear},
    xids::{self, Xids},
};
use crate::{
    signal::Kind,
    time::{MonoTime, Span},
    xid::{Advice, Catalogue, HealthImpact, Judgement, NvLinkError, Stated},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Reasons of one part at most: hostile lines of the kernel's log cannot fill the memory.
const REASONS: usize = 64;
/// The XID that reports a new recovery action.
const RECOVERY_CHANGED: u64 = 154;

#[derive(Debug, Clone)]
pub(super) struct Part {
    reasons: BTreeMap<String, Reason>,
    checks: Checks,
    xids: Xids,
    wear: Wear,
    /// Signals that cannot be read, with the reason.
    unread: BTreeMap<Kind, String>,
    heard: Option<MonoTime>,
    /// Where the GPU is, or was.
    slot: Option<Slot>,
    /// Codes, level as last told.
    reported: BTreeSet<String>,
    level: Level,
    since_ns: i64,
}

/// What of a part outlives a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptPart {
    level: Level,
    since_ns: i64,
    reasons: Vec<Reason>,
    /// Files of earlier versions have neither of these.
    #[serde(default)]
    xids: Xids,
    #[serde(default)]
    wear: Wear,
    #[serde(default)]
    slot: Option<Slot>,
    /// The highest values of signals that must not fall (active NVLinks), by the check's code.
    #[serde(default)]
    peaks: BTreeMap<String, i64>,
}

impl Default for KeptPart {
    fn default() -> KeptPart {
        let (xids, wear, slot, peaks) = Default::default();
        KeptPart { level: Level::Healthy, since_ns: 0, reasons: Vec::new(), xids, wear, slot, peaks }
    }
}

impl Part {
    /// A GPU of which nothing was seen yet.
    pub(super) fn unseen(now: Stamp) -> Part {
        Part::restored(KeptPart::default(), "no sample has come yet", now)
    }

    /// A part as it was kept, that is not seen until a sample says so.
    pub(super) fn restored(kept: KeptPart, blind: &str, now: Stamp) -> Part {
        let mut part = Part::from_kept(kept, now);
        part.blind(blind, now);
        part.as_told(now);
        part
    }

    /// A part as it was kept, of which nothing is to be seen.
    pub(super) fn from_kept(kept: KeptPart, now: Stamp) -> Part {
        let gone = |reason: &Reason| [STALE, BLIND, UNREAD].contains(&reason.code.as_str());
        let kept_reasons = kept.reasons.into_iter().filter(|reason| !gone(reason));
        let mut part = Part {
            reasons: kept_reasons.map(|reason| (reason.code.clone(), reason)).collect(),
            checks: Checks::with_peaks(&kept.peaks),
            xids: kept.xids,
            wear: kept.wear,
            unread: BTreeMap::new(),
            heard: None,
            slot: kept.slot,
            reported: BTreeSet::new(),
            level: kept.level,
            since_ns: kept.since_ns,
        };
        part.as_told(now);
        part
    }

    /// How it stands at the start is no change.
    fn as_told(&mut self, now: Stamp) {
        self.reported = self.reasons.keys().cloned().collect();
        let level = self.own_level();
        if level != self.level || self.since_ns == 0 {
            (self.level, self.since_ns) = (level, now.wall_ns);
        }
    }

    /// Whether NVML does not list it, or lists it and gets an error.
    pub(super) fn is_missing(&self) -> bool {
        [MISSING, UNREACHABLE].iter().any(|code| self.reasons.contains_key(*code))
    }

    /// Where the GPU is, or was; `None` for one that NVML never listed.
    pub(super) fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    /// NVML lists it there.
    pub(super) fn put(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// The last change of a part that is removed.
    pub(super) fn forgotten(&self, target: Target, now: Stamp) -> Change {
        let removed = self.reasons.keys().cloned().collect();
        Change { to: Level::Healthy, removed, ..self.unchanged(target, now) }
    }

    /// A change in which nothing has changed yet.
    fn unchanged(&self, target: Target, now: Stamp) -> Change {
        Change {
            revision: 0,
            target,
            from: self.level,
            to: self.level,
            added: Vec::new(),
            removed: Vec::new(),
            by: None,
            actor: None,
            event: None,
            at_ns: now.wall_ns,
        }
    }

    pub(super) fn keep(&self) -> KeptPart {
        KeptPart {
            level: self.level,
            since_ns: self.since_ns,
            reasons: self.reasons.values().cloned().collect(),
            xids: self.xids.clone(),
            wear: self.wear.clone(),
            slot: self.slot.clone(),
            peaks: self.checks.peaks(),
        }
    }

    pub(super) fn view(&self) -> PartView {
        let mut reasons: Vec<Reason> = self.reasons.values().cloned().collect();
        reasons.sort_by(|a, b| b.level.cmp(&a.level).then(a.since_ns.cmp(&b.since_ns)));
        PartView { level: self.level, since_ns: self.since_ns, reasons }
    }

    pub(super) fn own_level(&self) -> Level {
        self.reasons.values().map(|reason| reason.level).max().unwrap_or(Level::Healthy)
    }

    /// Adds a reason, or counts one that is there. True when it is new or worse.
    pub(super) fn note(&mut self, code: &str, level: Level, text: String, advice: Advice, now: Stamp) -> bool {
        self.note_until(Until::Day, code, level, text, advice, now)
    }

    /// [`note`](Self::note) of a reason that does not end after a day.
    pub(super) fn note_until(
        &mut self,
        until: Until,
        code: &str,
        level: Level,
        text: String,
        advice: Advice,
        now: Stamp,
    ) -> bool {
        if let Some(reason) = self.reasons.get_mut(code) {
            (reason.last_ns, reason.until) = (now.wall_ns, until);
            reason.count = reason.count.saturating_add(1);
            let worse = level > reason.level;
            // Text and advice are those of the worst occurrence; a milder one does not replace them.
            if level >= reason.level {
                (reason.level, reason.text, reason.advice) = (level, text, advice);
            }
            return worse;
        }
        if self.reasons.len() >= REASONS && level < Level::Unhealthy && until == Until::Day {
            return false;
        }
        let reason = Reason {
            code: code.to_owned(),
            level,
            text,
            since_ns: now.wall_ns,
            last_ns: now.wall_ns,
            count: 1,
            advice,
            until,
        };
        self.reasons.insert(code.to_owned(), reason);
        true
    }

    pub(super) fn drop_reason(&mut self, code: &str) -> bool {
        self.reasons.remove(code).is_some()
    }

    pub(super) fn blind(&mut self, why: &str, now: Stamp) {
        self.note(BLIND, Level::Unknown, format!("not seen: {why}"), Advice::InspectHardware, now);
    }

    /// A signal cannot be read, or is again: what is judged by it is not judged meanwhile.
    pub(super) fn unread(&mut self, kind: &Kind, why: Option<&str>, now: Stamp) {
        match why {
            Some(why) if checks::judges(kind) => drop(self.unread.insert(kind.clone(), why.to_owned())),
            Some(_) => return,
            None => drop(self.unread.remove(kind)),
        }
        if self.unread.is_empty() {
            self.drop_reason(UNREAD);
            return;
        }
        let all: Vec<String> = self.unread.iter().map(|(kind, why)| format!("{kind} ({why})")).collect();
        let text = format!("cannot be read, and so is not judged: {}", all.join(", "));
        self.note(UNREAD, Level::Degraded, text, Advice::InspectHardware, now);
    }

    /// Removes the reasons, so that the part is evaluated again. A cordon stays: only `uncordon` ends it. A part that
    /// is not seen stays unseen.
    pub(super) fn reset(&mut self) {
        let stays = [CORDONED, BLIND, STALE, UNREAD];
        self.reasons.retain(|code, reason| stays.contains(&code.as_str()) || reason.until == Until::Over);
        // What the hardware once had is still what it should have.
        self.checks = Checks::with_peaks(&self.checks.peaks());
        self.xids.reset();
    }

    /// Whether an XID of that time was heard already.
    pub(super) fn knows_xid(&self, code: u64, now: Stamp) -> bool {
        self.xids.knows(code, now.wall_ns)
    }

    pub(super) fn xid(&mut self, catalogue: &Catalogue, thresholds: &Thresholds, code: u64, now: Stamp) -> bool {
        let verdict = self.xids.hear(catalogue, thresholds, code, self.has_fatal_xid(), now.wall_ns);
        let mut changed = false;
        for over in verdict.over {
            // What is unhealthy stays until somebody resets it.
            let milder = self.reasons.get(&over).is_some_and(|reason| reason.level < Level::Unhealthy);
            changed |= milder && self.reasons.remove(&over).is_some();
        }
        for found in verdict.found {
            changed |= self.note(&found.code, found.level, found.text, found.advice, now);
        }
        changed
    }

    /// What the kernel log states of an XID beside its number. True when a reason came or went.
    pub(super) fn xid_record(
        &mut self,
        catalogue: &Catalogue,
        thresholds: &Thresholds,
        code: u64,
        text: &str,
        now: Stamp,
    ) -> bool {
        let stated = Stated::parse(text);
        let mut changed = false;
        if let Some(found) = stated.pid.and_then(|pid| self.xids.process(catalogue, code, pid, now.wall_ns)) {
            changed |= self.note(&found.code, found.level, found.text, found.advice, now);
        }
        if code == RECOVERY_CHANGED
            && let Some(value) = stated.recovery_action
        {
            if let Some(asks) = recovery::asks(value) {
                let text = format!("XID {code}: {} (action {value})", asks.text);
                changed |= self.note(asks.code, asks.level, text, asks.advice, now);
            }
            // What is unhealthy stays until somebody resets it.
            if value != 3 {
                changed |= self.drop_reason(recovery::DRAIN_P2P);
            }
        }
        if let Some(error) = &stated.nvlink {
            changed |= self.nvlink_error(catalogue, thresholds, code, error, now);
        }
        changed
    }

    /// The error of an NVLink unit decides in place of the XID's number.
    fn nvlink_error(
        &mut self,
        catalogue: &Catalogue,
        thresholds: &Thresholds,
        code: u64,
        error: &NvLinkError<'_>,
        now: Stamp,
    ) -> bool {
        let Judgement { harm, advice, known } = catalogue.judge_nvlink(code, error);
        self.xids.explain(code, now.wall_ns);
        let reason = xids::reason(code);
        let severity = if error.fatal { "fatal" } else { "nonfatal" };
        let unknown = if known { "" } else { ", unknown to the catalogue" };
        let text = format!(
            "{}: {} reports a {severity} error, status 0x{:08x}{unknown}",
            catalogue.describe(code),
            error.unit,
            error.status
        );
        let level = match harm {
            HealthImpact::None => return self.drop_if_new(&reason, now),
            HealthImpact::Degraded => Level::Degraded,
            HealthImpact::Unhealthy => Level::Unhealthy,
        };
        let mut changed = false;
        if level == Level::Unhealthy
            && let Some(found) = self.xids.fatal(thresholds, &text, self.has_fatal_xid(), now.wall_ns)
        {
            changed |= self.note(&found.code, found.level, found.text, found.advice, now);
        }
        self.note(&reason, level, text, advice, now) | changed
    }

    /// Whether an XID that makes the GPU unhealthy stands: what follows is of the same failure.
    fn has_fatal_xid(&self) -> bool {
        self.reasons.values().any(|reason| reason.level == Level::Unhealthy && xids::is_reason(&reason.code))
    }

    /// Drops a reason that only the number of the same XID gave, a moment ago.
    fn drop_if_new(&mut self, code: &str, now: Stamp) -> bool {
        let new = self.reasons.get(code).is_some_and(|reason| {
            reason.level < Level::Unhealthy && xids::is_same(reason.since_ns, now.wall_ns) && reason.count == 1
        });
        new && self.drop_reason(code)
    }

    /// The last value of a kind that the GPU is judged by.
    pub(super) fn last(&self, kind: &Kind) -> Option<i64> {
        self.checks.last(kind)
    }

    /// A value of the GPU. True when a reason came or went. `peers` is the highest value of comparable GPUs.
    pub(super) fn sample(
        &mut self,
        thresholds: &Thresholds,
        kind: &Kind,
        value: i64,
        peers: Option<i64>,
        now: Stamp,
    ) -> bool {
        self.heard = Some(now.at);
        let mut changed = self.reasons.remove(BLIND).is_some();
        changed |= self.reasons.remove(STALE).is_some();
        for (check, found) in self.checks.value(thresholds, kind, value, peers, now.at) {
            changed |= match found {
                CheckResult::Bad(text) => {
                    let asks = (check.code == recovery::ACTION).then(|| recovery::asks(value)).flatten();
                    self.note(check.code, check.level, text, asks.map_or(check.advice, |asks| asks.advice), now)
                }
                // What is unhealthy stays until somebody resets it.
                CheckResult::Cleared if check.level < Level::Unhealthy => self.reasons.remove(check.code).is_some(),
                CheckResult::Cleared | CheckResult::Nothing => false,
            };
        }
        changed |= match self.wear.value(thresholds, kind, value, now.wall_ns) {
            Some(wear::WearResult::Bad(code, level, text, advice)) => self.note(code, level, text, advice, now),
            Some(wear::WearResult::Good(code)) => self.reasons.remove(code).is_some(),
            None => false,
        };
        changed
    }

    /// A GPU that has said nothing for too long is not seen.
    pub(super) fn tick(&mut self, fresh: Span, now: Stamp) {
        match self.heard {
            Some(heard) if now.at.since(heard) > fresh && !self.reasons.contains_key(BLIND) => {
                let text = format!("no sample for {}", now.at.since(heard));
                self.note(STALE, Level::Unknown, text, Advice::InspectHardware, now);
            }
            _ => {}
        }
    }

    /// What happened and did not make the part unhealthy is over when it has not come again for a day. What a check of a
    /// signal says ends with the signal, and a cordon with an order.
    pub(super) fn forget_old_events(&mut self, now: Stamp) {
        let day = i64::try_from(checks::DAY.0).unwrap_or(i64::MAX);
        self.reasons.retain(|code, reason| {
            let of_a_signal = code == UNREAD || checks::is_code(code) || wear::is_code(code);
            let lasts = reason.until != Until::Day;
            let stays = reason.level >= Level::Unknown || code == CORDONED || of_a_signal || lasts;
            stays || now.wall_ns.saturating_sub(reason.last_ns) < day
        });
    }

    /// What happened on it, as it stands.
    pub(super) fn happened(&self, target: Target, event: Happened, now: Stamp) -> Change {
        Change { event: Some(event), ..self.unchanged(target, now) }
    }

    /// The change since the part was last told of, if there is one.
    pub(super) fn settle(&mut self, target: Target, level: Level, now: Stamp) -> Option<Change> {
        let same = level == self.level
            && self.reported.len() == self.reasons.len()
            && self.reasons.keys().all(|code| self.reported.contains(code));
        if same {
            return None;
        }
        let added = self.reasons.values().filter(|r| !self.reported.contains(&r.code)).cloned().collect();
        let removed = self.reported.iter().filter(|code| !self.reasons.contains_key(*code)).cloned().collect();
        let change = Change { to: level, added, removed, ..self.unchanged(target, now) };
        if level != self.level {
            (self.level, self.since_ns) = (level, now.wall_ns);
        }
        self.reported = self.reasons.keys().cloned().collect();
        Some(change)
    }
}
