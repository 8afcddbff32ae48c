//! The state of one run: its rules, its containment, and the numbering of its decisions and incidents.

use super::{OBSERVED_DENIALS, RulesView, RunView, STALE_AFTER, rule::RuleState, sampled};
use crate::{
    actor::Request,
    containment::Containment,
    decision::{
        Action, Cause, Confidence, Decision, DecisionId, IncidentId, Mode, Observation, Outcome, Severity, Upkeep,
        Verdict,
    },
    detectors::Detectors,
    event::{DriftSince, Event},
    input::{Command, Control, Gap, Run, Silent, Unread},
    policy::{OnBlind, OnDrift, OnEscape, Policy, PolicyDigest, Rule},
    record::Suppressed,
    signal::{Kind, Series, Signal, Source, Value},
    subject::{GpuId, RunId, Subject},
    time::MonoTime,
};
use std::collections::{BTreeMap, BTreeSet};

/// A failed containment is decided again this often before it is left to people.
const RETRIES: u32 = 3;

/// Metrics of a run whose last value is kept as evidence, each series by itself where a rule judges the metric. Rules see
/// every metric, kept or not.
const METRICS_KEPT: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct RunState {
    id: RunId,
    /// The engine that is decided as; `None`: this one.
    earlier: Option<u32>,
    pub(super) policy: PolicyDigest,
    registered: MonoTime,
    containment: Containment,
    /// Frozen without a decision on record when it was taken up.
    unexplained: bool,
    decisions: u32,
    incidents: u32,
    open: Option<IncidentId>,
    retries: u32,
    gpus: BTreeSet<GpuId>,
    /// The MIG devices it was given, by GPU.
    mig: BTreeMap<GpuId, BTreeSet<String>>,
    rules: Vec<RuleState>,
    last: BTreeMap<(Subject, Kind, Option<Series>), Observation>,
    heard: BTreeMap<Source, MonoTime>,
    blind: BTreeSet<(Source, Option<GpuId>)>,
    unread: BTreeMap<(GpuId, Kind), String>,
    /// Metrics that rules need and nobody reports, with the reason.
    silent: BTreeMap<String, String>,
    /// Rules, by index, that froze the run since it was last thawed.
    stopped_by: BTreeSet<usize>,
    detectors: Detectors,
}

/// What caused a decision, apart from its text.
struct Because {
    at: MonoTime,
    seqs: Vec<u64>,
    values: Vec<Observation>,
    severity: Severity,
    confidence: Confidence,
    mode: Mode,
}

impl RunState {
    pub(super) fn new(run: &Run, policy: &Policy, earlier: Option<u32>, recalled: Containment) -> RunState {
        let contained = (run.contained.frozen || run.contained.blocked) && !run.contained.unexplained;
        RunState {
            id: run.id,
            earlier,
            policy: run.policy,
            registered: run.registered,
            containment: recalled.taken_up(run.contained, run.registered),
            unexplained: run.contained.unexplained,
            decisions: run.decisions,
            incidents: run.incidents,
            open: (contained && run.incidents > 0).then(|| IncidentId::new(run.id, run.incidents)),
            retries: 0,
            gpus: run.gpus.clone(),
            mig: run.mig.clone(),
            rules: vec![RuleState::default(); policy.rules.len()],
            last: BTreeMap::new(),
            heard: BTreeMap::new(),
            blind: BTreeSet::new(),
            unread: BTreeMap::new(),
            silent: BTreeMap::new(),
            stopped_by: BTreeSet::new(),
            detectors: Detectors::of(policy),
        }
    }

    /// A run found frozen for no recorded reason is held, and the holding is a decision like any other: it can be explained,
    /// and thawed.
    pub(super) fn adopted(&mut self, out: &mut Vec<Decision>) {
        if self.unexplained {
            let actions = vec![Action::Freeze, Action::Snapshot, Action::Notify];
            let because = Because {
                at: self.registered,
                seqs: Vec::new(),
                values: Vec::new(),
                severity: Severity::Critical,
                confidence: Confidence::Medium,
                mode: Mode::Enforce,
            };
            self.decide(Cause::Upkeep { what: Upkeep::FoundFrozen }, actions, because, out);
        }
    }

    pub(super) fn containment(&self) -> &Containment {
        &self.containment
    }

    pub(super) fn view(&self) -> RunView {
        RunView {
            frozen: self.containment.is_frozen(),
            blocked: self.containment.is_latched(),
            decisions: self.decisions,
            incidents: self.incidents,
        }
    }

    pub(super) fn suppressed(&self, policy: &Policy) -> Vec<Suppressed> {
        let counted = policy.rules.iter().zip(&self.rules);
        counted
            .filter(|(_, state)| state.suppressed() > 0)
            .map(|(rule, state)| Suppressed { rule: rule.id.clone(), events: state.suppressed() })
            .collect()
    }

    pub(super) fn last_signals(&self) -> Vec<Observation> {
        self.last.values().cloned().collect()
    }

    pub(super) fn has_gpu(&self, gpu: &GpuId) -> bool {
        self.gpus.contains(gpu) || self.mig.values().any(|given| given.contains(&gpu.0))
    }

    /// Whether a signal of a GPU says something of the run. One that was given MIG devices is judged by what these tell of
    /// themselves, not by what the whole GPU tells of the same.
    pub(super) fn is_judged_by(&self, gpu: &GpuId, kind: &Kind) -> bool {
        self.has_gpu(gpu) && !(kind.is_of_slices() && self.mig.contains_key(gpu))
    }

    /// Whether what happened on one of its GPUs was where the run is: one that was given MIG devices has nothing to do with a
    /// GPU instance that holds none of them.
    pub(super) fn is_at(&self, gpu: &GpuId, value: &Value) -> bool {
        let Value::Event(Event::Xid { slice: Some(slice), .. }) = value else { return true };
        slice.devices.is_empty() || self.mig.get(gpu).is_none_or(|given| !given.is_disjoint(&slice.devices))
    }

    pub(super) fn set_gpus(&mut self, gpus: &BTreeSet<GpuId>) {
        self.gpus.clone_from(gpus);
        let slices = self.mig.values().flatten().map(|uuid| GpuId(uuid.clone()));
        let all: BTreeSet<GpuId> = gpus.iter().cloned().chain(slices).collect();
        self.detectors.set_gpus(&all);
        self.unread.retain(|(gpu, _), _| all.contains(gpu));
        self.last.retain(|(subject, _, _), _| match subject {
            Subject::Gpu(gpu) => all.contains(gpu),
            Subject::Node | Subject::Run(_) | Subject::Process { .. } => true,
        });
    }

    pub(super) fn signal(&mut self, policy: &Policy, signal: &Signal, out: &mut Vec<Decision>) {
        let seen = Observation {
            seq: signal.seq,
            at: signal.at,
            subject: signal.subject.clone(),
            kind: signal.kind.clone(),
            value: signal.value.clone(),
            repeats: signal.repeats,
        };
        self.hear(signal);
        if let Value::Event(event) = &signal.value {
            self.event_upkeep(policy, event, &seen, out);
        }
        self.judge(policy, signal, &seen, out);
        for derived in self.detectors.take(signal) {
            let seen = Observation { kind: derived.kind.clone(), value: derived.value.clone(), ..seen.clone() };
            self.judge(policy, &derived, &seen, out);
            self.remember(policy, seen);
        }
        if !matches!(signal.value, Value::Event(_)) {
            self.remember(policy, seen);
        }
    }

    fn judge(&mut self, policy: &Policy, signal: &Signal, seen: &Observation, out: &mut Vec<Decision>) {
        for (index, rule) in policy.rules.iter().enumerate() {
            let observes = self.earlier.is_none_or(|engine| engine >= OBSERVED_DENIALS) && policy.observes(rule);
            if let Some(trip) = self.rules[index].signal(rule, signal, observes) {
                // The ranks of a run diverge together: one decision stops it, and says enough.
                let again =
                    self.containment.is_frozen() && signal.value.series().is_some() && self.stopped_by.contains(&index);
                if again {
                    continue;
                }
                let mode = if trip.observed { Mode::Observe } else { rule.mode };
                if mode == Mode::Enforce && rule.actions.contains(&Action::Freeze) {
                    self.stopped_by.insert(index);
                }
                let cause =
                    Cause::Rule { rule: rule.id.clone(), condition: rule.condition(), suppressed: trip.suppressed };
                let because = Because { mode, ..Because::of(seen, rule) };
                self.decide(cause, rule.actions.clone(), because, out);
            }
        }
    }

    /// A run names its metrics itself: without a bound it could fill the daemon's memory with names. What rules judge comes
    /// first; of other metrics the last value of any series is kept.
    fn remember(&mut self, policy: &Policy, seen: Observation) {
        let judged = policy
            .rules
            .iter()
            .any(|rule| matches!(&seen.kind, Kind::Metric(name) if rule.when.metric() == Some(name)));
        let series = seen.value.series().filter(|_| judged).cloned();
        let key = (seen.subject.clone(), seen.kind.clone(), series);
        let new = !self.last.contains_key(&key);
        if new && !judged && matches!(key.1, Kind::Metric(_)) {
            let metrics = self.last.keys().filter(|(_, kind, _)| matches!(kind, Kind::Metric(_))).count();
            if metrics >= METRICS_KEPT {
                return;
            }
        }
        self.last.insert(key, seen);
    }

    fn hear(&mut self, signal: &Signal) {
        // An event says that its hook works, not that the counters are read.
        if sampled(signal.source) && signal.kind != Kind::Event {
            self.heard.insert(signal.source, signal.at);
            self.blind.remove(&(signal.source, None));
            if let (Subject::Gpu(gpu), false) = (&signal.subject, self.blind.is_empty()) {
                self.blind.remove(&(signal.source, Some(gpu.clone())));
            }
        }
    }

    /// What failsafe does of itself, whatever the rules say.
    fn event_upkeep(&mut self, policy: &Policy, event: &Event, seen: &Observation, out: &mut Vec<Decision>) {
        match event {
            Event::Leave { pid, mover_in_run, .. } => {
                let recapture =
                    self.containment.is_frozen() || (*mover_in_run && policy.on_escape == OnEscape::Recapture);
                let actions = if recapture {
                    vec![Action::Recapture { pid: *pid }, Action::Notify]
                } else {
                    vec![Action::Notify]
                };
                self.decide(Cause::Upkeep { what: Upkeep::Escape }, actions, Because::certain(seen), out);
            }
            Event::Latched => {
                if self.containment.is_frozen() {
                    return;
                }
                let actions = vec![Action::Freeze, Action::Snapshot, Action::Notify];
                self.decide(Cause::Upkeep { what: Upkeep::Latched }, actions, Because::certain(seen), out);
            }
            Event::ForeignThaw { .. } => {
                if !self.containment.is_frozen() {
                    return;
                }
                self.decide(
                    Cause::Upkeep { what: Upkeep::ForeignThaw },
                    vec![Action::Freeze, Action::Notify],
                    Because::certain(seen),
                    out,
                );
            }
            Event::Drift { since, .. } => {
                let holds = policy.on_drift == OnDrift::Hold && *since == DriftSince::Predecessor;
                if holds && !self.containment.is_frozen() {
                    let actions = vec![Action::Freeze, Action::Snapshot, Action::Notify];
                    self.decide(Cause::Upkeep { what: Upkeep::Drift }, actions, Because::certain(seen), out);
                }
            }
            Event::Exec { .. }
            | Event::Fork { .. }
            | Event::Exit { .. }
            | Event::Open { .. }
            | Event::Net { .. }
            | Event::Syscall { .. }
            | Event::Privilege { .. }
            | Event::ExecMemory { .. }
            | Event::Protect { .. }
            | Event::Budget { .. }
            | Event::Dns { .. }
            | Event::Oom { .. }
            | Event::ForeignGpuProcess { .. }
            | Event::Xid { .. }
            | Event::Gpu { .. } => {}
        }
    }

    pub(super) fn gap(&mut self, policy: &Policy, gap: &Gap, out: &mut Vec<Decision>) {
        let key = (gap.source, gap.gpu.clone());
        if !gap.blind {
            self.blind.remove(&key);
            return;
        }
        self.go_blind(policy, key, gap.at, vec![gap.seq], out);
    }

    pub(super) fn tick(&mut self, policy: &Policy, now: MonoTime, out: &mut Vec<Decision>) {
        for source in policy.needs() {
            let heard = self.heard.get(&source).copied().unwrap_or(self.registered);
            let speaks = source != Source::Nvml || !self.gpus.is_empty();
            if sampled(source) && speaks && now.since(heard) > STALE_AFTER {
                self.go_blind(policy, (source, None), now, Vec::new(), out);
            }
        }
    }

    fn go_blind(
        &mut self,
        policy: &Policy,
        key: (Source, Option<GpuId>),
        at: MonoTime,
        seqs: Vec<u64>,
        out: &mut Vec<Decision>,
    ) {
        if policy.needs().contains(&key.0) && self.blind.insert(key) {
            self.decide_blind(policy, at, seqs, out);
        }
    }

    /// A signal of a GPU that no sensor reads any more: the rules on it are blind, the others are not.
    pub(super) fn unread(&mut self, policy: &Policy, unread: &Unread, out: &mut Vec<Decision>) {
        let key = (unread.gpu.clone(), unread.kind.clone());
        let Some(why) = &unread.why else {
            self.unread.remove(&key);
            return;
        };
        let watched = policy.rules.iter().any(|rule| rule.when.reads().contains(&unread.kind));
        let blind = self.blind.contains(&(unread.source, None))
            || self.blind.contains(&(unread.source, Some(unread.gpu.clone())));
        if watched && !blind && self.unread.insert(key, why.clone()).is_none() {
            self.decide_blind(policy, unread.at, vec![unread.seq], out);
        }
    }

    /// A metric that rules need is missing: these rules are blind.
    pub(super) fn silent(&mut self, policy: &Policy, silent: &Silent, out: &mut Vec<Decision>) {
        let Some(why) = &silent.why else {
            self.silent.remove(&silent.metric);
            return;
        };
        let needed = policy.rules.iter().any(|rule| rule.when.metric() == Some(&silent.metric));
        if needed && self.silent.insert(silent.metric.clone(), why.clone()).is_none() {
            self.decide_blind(policy, silent.at, vec![silent.seq], out);
        }
    }

    pub(super) fn retire(&mut self, series: &Series) {
        for rule in &mut self.rules {
            rule.retire(series);
        }
        self.last.retain(|(_, _, of), _| of.as_ref() != Some(series));
    }

    pub(super) fn blind_to(&self) -> Vec<String> {
        let sensors = self.blind.iter().map(|(source, gpu)| match gpu {
            Some(gpu) => format!("the {source} sensor does not see {gpu}"),
            None => format!("the {source} sensor is blind"),
        });
        let unread = self.unread.iter().map(|((gpu, kind), why)| format!("{kind} of {gpu} cannot be read: {why}"));
        sensors.chain(unread).chain(self.silent.values().cloned()).collect()
    }

    pub(super) fn rules_view(&self, policy: &Policy, now: MonoTime) -> RulesView {
        let mut view = RulesView::default();
        for (rule, state) in policy.rules.iter().zip(&self.rules) {
            let source = rule.when.source();
            let sensor = self.blind.iter().filter(|(blind, _)| *blind == source).map(|(_, gpu)| match gpu {
                Some(gpu) => format!("the {source} sensor does not see {gpu}"),
                None => format!("the {source} sensor is blind"),
            });
            let unread = self.unread.iter().filter(|((_, kind), _)| rule.when.reads().contains(kind));
            let unread = unread.map(|((gpu, kind), why)| format!("{kind} of {gpu} cannot be read: {why}"));
            let silent = rule.when.metric().and_then(|name| self.silent.get(name)).cloned();
            let why: Vec<String> = sensor.chain(unread).chain(silent).collect();
            if !why.is_empty() {
                view.blind.push(format!("rule {}: {}", rule.id, why.join("; ")));
            }
            view.disarmed.extend(state.disarmed(rule, now));
        }
        view
    }

    fn decide_blind(&mut self, policy: &Policy, at: MonoTime, seqs: Vec<u64>, out: &mut Vec<Decision>) {
        let actions = match policy.on_blind {
            OnBlind::Freeze => vec![Action::Freeze, Action::Snapshot, Action::Notify],
            OnBlind::Refuse | OnBlind::Continue => vec![Action::Notify],
        };
        let because = Because {
            at,
            seqs,
            values: Vec::new(),
            severity: Severity::Critical,
            confidence: Confidence::High,
            mode: Mode::Enforce,
        };
        self.decide(Cause::Upkeep { what: Upkeep::Blind }, actions, because, out);
    }

    pub(super) fn control(&mut self, policy: &Policy, control: &Control, out: &mut Vec<Decision>) {
        let actions = match control.command {
            Command::Freeze => vec![Action::Freeze, Action::Snapshot, Action::Notify],
            Command::Kill => vec![Action::Snapshot, Action::Kill, Action::Notify],
            Command::Thaw => vec![Action::Thaw, Action::Notify],
        };
        let cause = Cause::Operator(Request {
            actor: control.actor.clone(),
            role: control.role.clone(),
            reason: control.reason.clone(),
        });
        let because = Because {
            at: control.at,
            seqs: vec![control.seq],
            values: Vec::new(),
            severity: Severity::Warning,
            confidence: Confidence::High,
            mode: Mode::Enforce,
        };
        self.decide(cause, actions, because, out);
        if control.command == Command::Thaw {
            self.rearm(policy, control.at);
        }
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome, out: &mut Vec<Decision>) {
        self.containment.came_out(outcome);
        match (&outcome.verdict, outcome.action) {
            (Verdict::Failed(_), action @ (Action::Freeze | Action::Kill | Action::Block)) => {
                if self.retries >= RETRIES {
                    return;
                }
                self.retries += 1;
                let because = Because {
                    at: outcome.at,
                    seqs: Vec::new(),
                    values: Vec::new(),
                    severity: Severity::Critical,
                    confidence: Confidence::High,
                    mode: Mode::Enforce,
                };
                self.decide(Cause::Upkeep { what: Upkeep::Retry }, vec![action, Action::Notify], because, out);
            }
            (Verdict::Proved | Verdict::Partial(_), Action::Freeze | Action::Kill | Action::Block) => self.retries = 0,
            (
                _,
                Action::Thaw
                | Action::Notify
                | Action::Snapshot
                | Action::Recapture { .. }
                | Action::CordonGpu
                | Action::CordonNode,
            ) => {}
        }
    }

    fn decide(&mut self, cause: Cause, actions: Vec<Action>, because: Because, out: &mut Vec<Decision>) {
        self.decisions += 1;
        let contains = because.mode == Mode::Enforce && actions.iter().any(|a| a.contains());
        let incident = match self.open {
            Some(open) => open,
            None => {
                self.incidents += 1;
                IncidentId::new(self.id, self.incidents)
            }
        };
        if contains {
            self.open = Some(incident);
        }
        let decision = Decision {
            id: DecisionId { run: self.id, n: self.decisions },
            incident,
            at: because.at,
            cause,
            actions,
            because: because.seqs,
            values: because.values,
            confidence: because.confidence,
            severity: because.severity,
            mode: because.mode,
            policy: self.policy,
        };
        self.containment.decided(&decision);
        if decision.mode == Mode::Enforce && decision.actions.contains(&Action::Thaw) {
            self.thawed();
        }
        out.push(decision);
    }

    fn thawed(&mut self) {
        self.open = None;
        self.retries = 0;
        self.stopped_by.clear();
    }

    fn rearm(&mut self, policy: &Policy, at: MonoTime) {
        for (state, rule) in self.rules.iter_mut().zip(&policy.rules) {
            state.rearm(rule, at);
        }
    }
}

impl Because {
    fn of(seen: &Observation, rule: &Rule) -> Because {
        Because {
            at: seen.at,
            seqs: vec![seen.seq],
            values: vec![seen.clone()],
            severity: rule.severity,
            confidence: rule.confidence,
            mode: rule.mode,
        }
    }

    fn certain(seen: &Observation) -> Because {
        Because {
            at: seen.at,
            seqs: vec![seen.seq],
            values: vec![seen.clone()],
            severity: Severity::Critical,
            confidence: Confidence::High,
            mode: Mode::Enforce,
        }
    }
}
