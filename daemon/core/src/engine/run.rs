//! The state of one run: its rules, its containment, and the numbering of its decisions and incidents.

use super::{
    OBSERVED_DENIALS, REAL_TRIPS_AGAIN, REJUDGED_AFTER_OBSERVING, RulesView, RunView, STALE_AFTER, UNREAD_IS_UNKNOWN,
    index::Index,
    last::Last,
    leaf::Sight,
    rule::{Observes, RuleState},
    sampled,
    tree::{Evidence, TreeState},
};
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
    policy::{Condition, OnBlind, OnDrift, OnEscape, Policy, PolicyDigest, Rule, Tree, Truth},
    record::Suppressed,
    signal::{Kind, Real, Series, Signal, Source, Value},
    subject::{GpuId, RunId, Subject},
    time::MonoTime,
};
use std::collections::{BTreeMap, BTreeSet};

/// A failed containment is decided again this often before it is left to people.
const RETRIES: u32 = 3;

#[derive(Debug, Clone)]
pub(super) struct RunState {
    id: RunId,
    /// The engine that is decided as; `None`: this one.
    earlier: Option<u32>,
    pub(super) policy: PolicyDigest,
    registered: MonoTime,
    containment: Containment,
    /// It is only watched: what is decided is not carried out, but for operators' commands.
    observed: bool,
    /// Another state has it frozen, see [`super::State::set_frozen_by_others`].
    frozen_by_others: bool,
    /// What failsafe would have done of itself while it was only watched, by what caused it, and what is no longer so after a thaw.
    held_back: BTreeMap<Upkeep, Because>,
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
    /// Of the rules whose condition has several parts.
    trees: Vec<Option<TreeState>>,
    index: Index,
    /// The sensors that the policy needs.
    needs: BTreeSet<Source>,
    last: Last,
    heard: BTreeMap<Source, MonoTime>,
    blind: BTreeSet<(Source, Option<GpuId>)>,
    unread: BTreeMap<(GpuId, Kind), String>,
    /// Metrics that rules need and nobody reports, with the reason.
    silent: BTreeMap<String, String>,
    /// Rules, by index, that froze the run since it was last thawed.
    stopped_by: BTreeSet<usize>,
    detectors: Detectors,
    /// The numbers of its manifest that rules read; of each the first that came.
    manifest: BTreeMap<String, Real>,
}

/// What caused a decision, apart from its text.
#[derive(Debug, Clone)]
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
        let gpus = all_gpus(&run.gpus, &run.mig);
        let tree = |rule: &Rule| match &rule.when {
            Condition::Tree(tree) => Some(TreeState::new(tree, gpus.iter().cloned(), run.registered, earlier)),
            Condition::Threshold { .. } | Condition::NotFinite { .. } | Condition::Event(_) => None,
        };
        let trees: Vec<Option<TreeState>> = policy.rules.iter().map(tree).collect();
        RunState {
            id: run.id,
            earlier,
            policy: run.policy,
            registered: run.registered,
            containment: recalled.taken_up(run.contained, run.registered),
            observed: false,
            frozen_by_others: false,
            held_back: BTreeMap::new(),
            unexplained: run.contained.unexplained,
            decisions: run.decisions,
            incidents: run.incidents,
            open: (contained && run.incidents > 0).then(|| IncidentId::new(run.id, run.incidents)),
            retries: 0,
            gpus: run.gpus.clone(),
            mig: run.mig.clone(),
            rules: vec![RuleState::default(); policy.rules.len()],
            index: Index::of(policy, &trees),
            trees,
            needs: policy.needs(),
            last: Last::default(),
            heard: BTreeMap::new(),
            blind: BTreeSet::new(),
            unread: BTreeMap::new(),
            silent: BTreeMap::new(),
            stopped_by: BTreeSet::new(),
            detectors: Detectors::of(policy),
            manifest: BTreeMap::new(),
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

    /// It is only watched from here on. What is in force by then stays.
    pub(super) fn observe(&mut self) {
        self.observed = true;
    }

    /// It is bounded from here on. What held meanwhile, and was not acted upon, is judged again at once: a total never falls, and a sensor
    /// goes blind once.
    pub(super) fn enforce(&mut self, policy: &Policy, at: MonoTime, out: &mut Vec<Decision>) {
        if !std::mem::take(&mut self.observed) || self.is_as_engine_before(REJUDGED_AFTER_OBSERVING) {
            return;
        }
        for (what, because) in std::mem::take(&mut self.held_back) {
            let stands = what != Upkeep::Blind || self.is_blind();
            if stands && !self.containment.is_frozen() {
                let because = Because { at, ..because };
                self.decide(
                    Cause::Upkeep { what },
                    vec![Action::Freeze, Action::Snapshot, Action::Notify],
                    because,
                    out,
                );
            }
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some(tree) = self.trees.get_mut(index).and_then(Option::as_mut) {
                tree.enforce(rule, policy);
            }
            self.judge_standing(index, rule, at, out);
        }
        self.judge_trees(policy, at, out);
    }

    /// Whether something that its policy needs is not seen.
    fn is_blind(&self) -> bool {
        let sensor = self.blind.iter().any(|(_, gpu)| gpu.as_ref().is_none_or(|gpu| self.has_gpu(gpu)));
        sensor || !self.unread.is_empty() || !self.silent.is_empty()
    }

    /// Judges the last values of a rule that tripped while the run was only watched.
    fn judge_standing(&mut self, index: usize, rule: &Rule, at: MonoTime, out: &mut Vec<Decision>) {
        let Some(mut state) = self.rules.get_mut(index).map(std::mem::take) else { return };
        let of_run = || Subject::Run(self.id);
        let subject = |gpu: Option<&GpuId>| gpu.map_or_else(of_run, |gpu| Subject::Gpu(gpu.clone()));
        // A value that is not seen at present, or of a GPU that the run no longer has, is judged when it is seen again.
        let seen = |kind: &Kind, gpu: Option<&GpuId>, series: Option<&Series>| {
            !self.sight().hides(kind, gpu) && self.last_of(subject(gpu), kind, series).is_some()
        };
        let standing = state.enforce(rule, at, seen);
        let kind = rule.when.signals().first().copied().cloned();
        for (gpu, series) in standing {
            let value = kind.as_ref().and_then(|kind| {
                let subject = gpu.clone().map_or(Subject::Run(self.id), Subject::Gpu);
                self.last_of(subject, kind, series.as_ref()).cloned()
            });
            if rule.mode == Mode::Enforce && rule.actions.contains(&Action::Freeze) {
                self.stopped_by.insert(index);
            }
            let cause = Cause::Rule { rule: rule.id.clone(), condition: rule.condition(), suppressed: 0 };
            let because = Because {
                at,
                seqs: value.iter().map(|value| value.seq).collect(),
                values: value.into_iter().collect(),
                severity: rule.severity,
                confidence: rule.confidence,
                mode: rule.mode,
            };
            self.decide(cause, rule.actions.clone(), because, out);
        }
        if let Some(slot) = self.rules.get_mut(index) {
            *slot = state;
        }
    }

    /// Whether it is decided as an engine before this one did.
    fn is_as_engine_before(&self, engine: u32) -> bool {
        self.earlier.is_some_and(|earlier| earlier < engine)
    }

    pub(super) fn gpus(&self) -> &BTreeSet<GpuId> {
        &self.gpus
    }

    pub(super) fn containment(&self) -> &Containment {
        &self.containment
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.containment.is_frozen()
    }

    pub(super) fn set_frozen_by_others(&mut self, frozen: bool) {
        self.frozen_by_others = frozen;
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

    pub(super) fn visit_tests(&self, mut visit: impl FnMut(usize, usize, Truth)) {
        for (rule, tree) in self.trees.iter().enumerate() {
            if let Some(tree) = tree {
                tree.visit_tests(|test, truth| visit(rule, test, truth));
            }
        }
    }

    pub(super) fn last_signals(&self) -> Vec<Observation> {
        self.last.all()
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

    pub(super) fn set_gpus(&mut self, policy: &Policy, gpus: &BTreeSet<GpuId>, at: MonoTime, out: &mut Vec<Decision>) {
        self.gpus.clone_from(gpus);
        let all = all_gpus(gpus, &self.mig);
        self.detectors.set_gpus(&all);
        self.unread.retain(|(gpu, _), _| all.contains(gpu));
        self.last.retain(|subject| match subject {
            Subject::Gpu(gpu) => all.contains(gpu),
            Subject::Node | Subject::Run(_) | Subject::Process { .. } => true,
        });
        self.trees.iter_mut().flatten().for_each(|tree| tree.set_gpus(&all, at));
        self.judge_trees(policy, at, out);
    }

    /// Numbers of its manifest. They are judged with the next values of the signals that are compared with them.
    pub(super) fn manifest(&mut self, policy: &Policy, values: &BTreeMap<String, Real>) {
        for key in policy.rules.iter().flat_map(|rule| rule.when.manifest_keys()) {
            if let (Some(value), false) = (values.get(key), self.manifest.contains_key(key)) {
                self.manifest.insert(key.to_owned(), *value);
            }
        }
    }

    pub(super) fn signal(&mut self, policy: &Policy, signal: &Signal, out: &mut Vec<Decision>) {
        self.hear(signal);
        if let Value::Event(event) = &signal.value {
            self.event_upkeep(policy, event, signal, out);
        }
        self.keep(signal);
        self.judge(policy, signal, out);
        for derived in self.detectors.take(signal) {
            self.keep(&derived);
            self.judge(policy, &derived, out);
        }
    }

    /// Keeps the value as the last of its signal.
    fn keep(&mut self, signal: &Signal) {
        if !matches!(signal.value, Value::Event(_)) {
            let judged = matches!(&signal.kind, Kind::Metric(_)) && !self.index.of_signal(signal).is_empty();
            self.last.keep(signal, judged);
        }
    }

    /// Gives the signal to the rules on it, in their order.
    fn judge(&mut self, policy: &Policy, signal: &Signal, out: &mut Vec<Decision>) {
        for n in 0.. {
            let Some(index) = self.index.of_signal(signal).get(n).copied() else { return };
            let Some(rule) = policy.rules.get(index) else { continue };
            if let Condition::Tree(tree) = &rule.when {
                if let Some(state) = self.trees.get_mut(index).and_then(Option::as_mut) {
                    state.take(rule, policy, signal, self.observed, &self.manifest);
                }
                self.judge_tree(index, rule, tree, signal.at, Some(signal.seq), out);
                continue;
            }
            let denials = self.observed || !self.is_as_engine_before(OBSERVED_DENIALS) && policy.observes(rule);
            let real_trips_again = !self.is_as_engine_before(REAL_TRIPS_AGAIN);
            let observes = Observes { denials, run: self.observed, real_trips_again };
            if let Some(trip) = self.rules[index].signal(rule, signal, observes) {
                // The ranks of a run diverge together: one decision stops it, and says enough.
                let again =
                    self.containment.is_frozen() && signal.value.series().is_some() && self.stopped_by.contains(&index);
                if again {
                    continue;
                }
                let mode = if trip.observed || self.observed { Mode::Observe } else { rule.mode };
                if mode == Mode::Enforce && rule.actions.contains(&Action::Freeze) {
                    self.stopped_by.insert(index);
                }
                let cause =
                    Cause::Rule { rule: rule.id.clone(), condition: rule.condition(), suppressed: trip.suppressed };
                let because = Because { mode, ..Because::of(signal, rule) };
                self.decide(cause, rule.actions.clone(), because, out);
            }
        }
    }

    /// Judges every condition of several parts: time has passed, or what is seen has changed.
    fn judge_trees(&mut self, policy: &Policy, at: MonoTime, out: &mut Vec<Decision>) {
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Condition::Tree(tree) = &rule.when {
                self.judge_tree(index, rule, tree, at, None, out);
            }
        }
    }

    fn judge_tree(
        &mut self,
        index: usize,
        rule: &Rule,
        tree: &Tree,
        at: MonoTime,
        seq: Option<u64>,
        out: &mut Vec<Decision>,
    ) {
        let Some(mut state) = self.trees.get_mut(index).and_then(Option::take) else { return };
        for n in 0..state.instances() {
            if !state.judge(n, rule, tree, &self.sight(), at) {
                continue;
            }
            if self.observed && rule.mode == Mode::Enforce {
                state.hold_back(n);
            }
            let Some(proof) = state.proof(n, self.sight().judges_real) else { continue };
            let mut values: Vec<Observation> = Vec::new();
            for seen in proof.values {
                let seen = match seen {
                    Evidence::Event(event) => Some(event),
                    Evidence::Last(subject, kind, series) => self.last_of(subject, &kind, series.as_ref()).cloned(),
                };
                values.extend(seen.filter(|seen| !values.contains(seen)));
            }
            // What is cordoned is found by the first value on a GPU.
            values.sort_by_key(|seen| !matches!(seen.subject, Subject::Gpu(_)));
            let seqs: BTreeSet<u64> = values.iter().map(|seen| seen.seq).chain(seq).collect();
            let holds = if proof.all { String::new() } else { format!(" [holds: {}]", proof.words.join("; ")) };
            let on = proof.gpu.map(|gpu| format!(" on {gpu}")).unwrap_or_default();
            let cause = Cause::Rule {
                rule: rule.id.clone(),
                condition: format!("{}{on}{holds}", rule.condition()),
                suppressed: 0,
            };
            let because = Because {
                at,
                seqs: seqs.into_iter().collect(),
                values,
                severity: rule.severity,
                confidence: rule.confidence.min(proof.confidence),
                mode: if proof.observed { Mode::Observe } else { rule.mode },
            };
            self.decide(cause, rule.actions.clone(), because, out);
        }
        if let Some(slot) = self.trees.get_mut(index) {
            *slot = Some(state);
        }
    }

    fn sight(&self) -> Sight<'_> {
        Sight {
            blind: &self.blind,
            unread: &self.unread,
            silent: &self.silent,
            frozen: self.containment.is_frozen() || self.frozen_by_others,
            registered: self.registered,
            unread_is_absent: self.is_as_engine_before(UNREAD_IS_UNKNOWN),
            judges_real: !self.is_as_engine_before(REAL_TRIPS_AGAIN),
            enforces: !self.observed,
        }
    }

    /// The last value of a signal of a GPU, or of the run.
    fn last_of(&self, subject: Subject, kind: &Kind, series: Option<&Series>) -> Option<&Observation> {
        let subjects = [subject, Subject::Run(self.id), Subject::Node];
        let exact = subjects.iter().find_map(|subject| self.last.get(subject, kind, series));
        exact.or_else(|| subjects.iter().find_map(|subject| self.last.newest(subject, kind)))
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
    fn event_upkeep(&mut self, policy: &Policy, event: &Event, seen: &Signal, out: &mut Vec<Decision>) {
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
        let saw = !gap.blind && !self.blind.remove(&key);
        if gap.blind {
            self.go_blind(policy, key, gap.at, vec![gap.seq], out);
        }
        // A gap can also say what one event does not show. The run causes such gaps itself: they hide no other event.
        if !saw || gap.lost > 0 {
            self.trees.iter_mut().flatten().for_each(|tree| tree.lost(gap.source, gap.at));
        }
        self.judge_trees(policy, gap.at, out);
    }

    pub(super) fn tick(&mut self, policy: &Policy, now: MonoTime, out: &mut Vec<Decision>) {
        let stale = |source: &Source| {
            let heard = self.heard.get(source).copied().unwrap_or(self.registered);
            let speaks = *source != Source::Nvml || !self.gpus.is_empty();
            sampled(*source) && speaks && now.since(heard) > STALE_AFTER
        };
        if self.needs.iter().any(stale) {
            let stale: Vec<Source> = self.needs.iter().copied().filter(stale).collect();
            for source in stale {
                self.go_blind(policy, (source, None), now, Vec::new(), out);
            }
        }
        self.judge_trees(policy, now, out);
    }

    fn go_blind(
        &mut self,
        policy: &Policy,
        key: (Source, Option<GpuId>),
        at: MonoTime,
        seqs: Vec<u64>,
        out: &mut Vec<Decision>,
    ) {
        if self.needs.contains(&key.0) && self.blind.insert(key) {
            self.decide_blind(policy, at, seqs, out);
        }
    }

    /// A signal of a GPU that no sensor reads any more: the rules on it are blind, the others are not.
    pub(super) fn unread(&mut self, policy: &Policy, unread: &Unread, out: &mut Vec<Decision>) {
        let key = (unread.gpu.clone(), unread.kind.clone());
        let Some(why) = &unread.why else {
            self.unread.remove(&key);
            self.judge_trees(policy, unread.at, out);
            return;
        };
        let watched = policy.rules.iter().any(|rule| rule.when.reads().contains(&&unread.kind));
        let blind = self.blind.contains(&(unread.source, None))
            || self.blind.contains(&(unread.source, Some(unread.gpu.clone())));
        if watched && !blind && self.unread.insert(key, why.clone()).is_none() {
            self.decide_blind(policy, unread.at, vec![unread.seq], out);
        }
        self.judge_trees(policy, unread.at, out);
    }

    /// A metric that rules need is missing: these rules are blind.
    pub(super) fn silent(&mut self, policy: &Policy, silent: &Silent, out: &mut Vec<Decision>) {
        let Some(why) = &silent.why else {
            self.silent.remove(&silent.metric);
            self.judge_trees(policy, silent.at, out);
            return;
        };
        let needed = policy.rules.iter().any(|rule| rule.when.metrics().contains(silent.metric.as_str()));
        if needed && self.silent.insert(silent.metric.clone(), why.clone()).is_none() {
            self.decide_blind(policy, silent.at, vec![silent.seq], out);
        }
        self.judge_trees(policy, silent.at, out);
    }

    pub(super) fn retire(&mut self, policy: &Policy, series: &Series, at: MonoTime, out: &mut Vec<Decision>) {
        for rule in &mut self.rules {
            rule.retire(series);
        }
        self.trees.iter_mut().flatten().for_each(|tree| tree.retire(series, at));
        self.judge_trees(policy, at, out);
        self.last.retire(series);
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
        for ((rule, state), tree) in policy.rules.iter().zip(&self.rules).zip(&self.trees) {
            let (sources, reads) = (rule.when.sources(), rule.when.reads());
            let blind = self.blind.iter().filter(|(source, _)| sources.contains(source));
            let sensor = blind.map(|(source, gpu)| match gpu {
                Some(gpu) => format!("the {source} sensor does not see {gpu}"),
                None => format!("the {source} sensor is blind"),
            });
            let unread = self.unread.iter().filter(|((_, kind), _)| reads.contains(&kind));
            let unread = unread.map(|((gpu, kind), why)| format!("{kind} of {gpu} cannot be read: {why}"));
            let metrics = rule.when.metrics();
            let silent = metrics.iter().filter_map(|name| self.silent.get(*name)).cloned();
            let why: Vec<String> = sensor.chain(unread).chain(silent).collect();
            if !why.is_empty() {
                view.blind.push(format!("rule {}: {}", rule.id, why.join("; ")));
            }
            view.disarmed.extend(state.disarmed(rule, now));
            if let Some(tree) = tree {
                view.disarmed.extend(tree.disarmed(rule, now));
                view.unknown.extend(tree.unknown(rule, &self.sight()));
            }
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

    /// Whether a decision is carried out in a run that is only watched: an operator's command, and what keeps one in force.
    fn is_kept_up(&self, cause: &Cause) -> bool {
        match cause {
            Cause::Operator(_) | Cause::Upkeep { what: Upkeep::Retry | Upkeep::ForeignThaw } => true,
            Cause::Upkeep { what: Upkeep::Escape } => self.containment.is_frozen(),
            Cause::Upkeep { .. } | Cause::Rule { .. } => false,
        }
    }

    fn decide(&mut self, cause: Cause, actions: Vec<Action>, mut because: Because, out: &mut Vec<Decision>) {
        self.decisions += 1;
        if self.observed && !self.is_kept_up(&cause) {
            because.mode = Mode::Observe;
            if let (Cause::Upkeep { what }, true) = (&cause, actions.contains(&Action::Freeze)) {
                self.held_back.insert(*what, Because { mode: Mode::Enforce, ..because.clone() });
            }
        }
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
        // Whoever thaws has seen what was found so far.
        self.held_back.clear();
    }

    fn rearm(&mut self, policy: &Policy, at: MonoTime) {
        for ((state, tree), rule) in self.rules.iter_mut().zip(&mut self.trees).zip(&policy.rules) {
            state.rearm(rule, at);
            if let Some(tree) = tree {
                tree.rearm(rule, at);
            }
        }
    }
}

impl Because {
    fn of(seen: &Signal, rule: &Rule) -> Because {
        Because {
            at: seen.at,
            seqs: vec![seen.seq],
            values: vec![Observation::of(seen)],
            severity: rule.severity,
            confidence: rule.confidence,
            mode: rule.mode,
        }
    }

    fn certain(seen: &Signal) -> Because {
        Because {
            at: seen.at,
            seqs: vec![seen.seq],
            values: vec![Observation::of(seen)],
            severity: Severity::Critical,
            confidence: Confidence::High,
            mode: Mode::Enforce,
        }
    }
}

/// The GPUs, and the MIG devices that were given of them.
fn all_gpus(gpus: &BTreeSet<GpuId>, mig: &BTreeMap<GpuId, BTreeSet<String>>) -> BTreeSet<GpuId> {
    let slices = mig.values().flatten().map(|uuid| GpuId(uuid.clone()));
    gpus.iter().cloned().chain(slices).collect()
}
