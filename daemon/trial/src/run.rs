//! Runs one test: its inputs in their order, with what a node adds to them.
//!
//! ```text
//! inputs of the test ─┐
//! a tick a second ────┼─► silence, repeats, frozen? ─► engine ─► decisions ─► outcomes (proved), back to the engine
//! sensors' samples ───┘
//! ```
//!
//! What a node would do is done as it does it: an unchanged value of a sensor is passed on every 4 s only, a metric that does not come
//! is reported as missing after its grace, a frozen run reports nothing, and a killed run ends. Every action succeeds at once.

mod inputs;
mod unmet;

use crate::{
    Coverage,
    events::Kernel,
    file::{Case, Feed, What},
    values::{Noise, value},
};
use failsafe_core::{
    Decision, Input, Kind, MonoTime, Policy, PolicySet, RunId, State, Subject, Value,
    decision::{Action, Cause, DecisionId, Mode, Outcome, Upkeep, Verdict},
    input::Run,
    signal::Source,
    silence::Silence,
    step,
    subject::GpuId,
    time::Span,
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// When the run of a test starts.
pub(crate) const START: MonoTime = MonoTime(3_600_000_000_000);
const SECOND: Span = Span::from_secs(1);
/// The sensors that are sampled, so that their silence means blindness.
const SAMPLED: [Source; 3] = [Source::Ebpf, Source::Cgroup, Source::Nvml];

/// What came of a test.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The decisions, but for those of operators.
    pub decisions: Vec<Decision>,
    /// What was seen of an expected decision's rule when its time was over, by the place of the expectation.
    pub seen: BTreeMap<usize, Vec<String>>,
    /// What was reached.
    pub coverage: Coverage,
    /// Inputs that were stepped.
    pub inputs: u64,
    /// Inputs that did not come, because the run was frozen or had ended, or the sensor was blind.
    pub held_back: u64,
    /// What is wrong with the test, by the line of its input.
    pub broken: Vec<(usize, String)>,
    /// What was not seen, of each decision about a blind sensor, by the decision's number.
    pub unseen: BTreeMap<DecisionId, String>,
}

impl Ran {
    /// The time of a decision after the start.
    pub fn time(decision: &Decision) -> Span {
        decision.at.since(START)
    }
}

/// Runs a test.
pub fn run(policy: &Policy, case: &Case) -> Ran {
    let mut bench = Bench::new(policy, case);
    bench.start();
    let mut queue: Vec<Queued<'_>> =
        case.inputs.iter().enumerate().map(|(n, feed)| Queued::new(feed, case.seed, n)).collect();
    let mut next_tick = SECOND;
    loop {
        let next =
            queue.iter().enumerate().filter(|(_, queued)| queued.left()).min_by_key(|(n, queued)| (queued.at, *n));
        let next = next.map(|(n, queued)| (n, queued.at)).filter(|(_, at)| *at <= case.length);
        match next {
            Some((n, at)) if at <= next_tick || next_tick > case.length => {
                bench.until(at);
                if let Some(queued) = queue.get_mut(n) {
                    queued.feed(&mut bench);
                }
            }
            _ if next_tick <= case.length => {
                bench.until(next_tick);
                bench.tick();
                next_tick = Span(next_tick.0 + SECOND.0);
            }
            _ => break,
        }
    }
    bench.finish()
}

/// An input of the test that has not come in full.
struct Queued<'c> {
    feed: &'c Feed,
    noise: Noise,
    n: u64,
    at: Span,
}

impl<'c> Queued<'c> {
    fn new(feed: &'c Feed, seed: u64, place: usize) -> Queued<'c> {
        let noise = Noise::of(seed, u64::try_from(place).unwrap_or(u64::MAX));
        Queued { feed, noise, n: 0, at: feed.at }
    }

    fn left(&self) -> bool {
        self.n < self.feed.count
    }

    fn feed(&mut self, bench: &mut Bench<'_>) {
        let Feed { line, at, every, count, what } = self.feed;
        let since = Span(self.at.0 - at.0);
        match what {
            What::Values { kind, gpus, series, values, steps } => {
                if let Some(number) = values.sample(self.n, *count, since, &mut self.noise) {
                    bench.value(kind, gpus, value(kind, number, steps.of(self.n), series));
                }
            }
            other => bench.other(*line, other),
        }
        self.n += 1;
        self.at = Span(self.at.0.saturating_add(every.0));
    }
}

struct Bench<'c> {
    policy: &'c Policy,
    case: &'c Case,
    policies: PolicySet,
    state: State,
    silence: Silence,
    kernel: Kernel<'c>,
    run: RunId,
    now: MonoTime,
    seq: u64,
    ended: bool,
    /// Values that were passed on, and when.
    told: BTreeMap<(Kind, Option<GpuId>), (Value, MonoTime)>,
    /// What stands in for the samples of each sensor that the policy needs.
    samples: Vec<(Source, Kind)>,
    blind: BTreeMap<Source, MonoTime>,
    unread: BTreeMap<(Kind, GpuId), MonoTime>,
    ran: Ran,
}

impl<'c> Bench<'c> {
    fn new(policy: &'c Policy, case: &'c Case) -> Bench<'c> {
        let digest = policy.digest();
        let unused = |source: Source| {
            let used = |kind: &Kind| {
                policy.rules.iter().any(|rule| rule.when.signals().contains(&kind) || rule.when.reads().contains(&kind))
            };
            let of_source = |kind: &&Kind| {
                kind.source() == source && !kind.is_derived() && (source != Source::Nvml || kind.is_read_of_a_gpu())
            };
            Kind::ALL.iter().filter(of_source).find(|kind| !used(kind)).cloned()
        };
        let needs = policy.needs();
        let sampled = SAMPLED.into_iter().filter(|source| needs.contains(source));
        Bench {
            policy,
            case,
            policies: PolicySet::from([(digest, Arc::new(policy.clone()))]),
            state: State::default(),
            silence: Silence::default(),
            kernel: Kernel::under(policy),
            run: RunId(Uuid::from_u128(0x0193_6f2e_7b1c_7e50_8000_5f0c_9a1b_2c3d)),
            now: START,
            seq: 0,
            ended: false,
            told: BTreeMap::new(),
            samples: sampled.filter_map(|source| Some((source, unused(source)?))).collect(),
            blind: BTreeMap::new(),
            unread: BTreeMap::new(),
            ran: Ran {
                decisions: Vec::new(),
                seen: BTreeMap::new(),
                coverage: Coverage::of(policy),
                inputs: 0,
                held_back: 0,
                broken: Vec::new(),
                unseen: BTreeMap::new(),
            },
        }
    }

    fn start(&mut self) {
        let run = Run {
            id: self.run,
            name: "test".to_owned(),
            labels: BTreeMap::new(),
            owner_uid: 1_000,
            cgroup: "/test".to_owned(),
            cgroup_id: 1,
            boot_id: "test".to_owned(),
            policy: self.policy.digest(),
            gpus: self.case.gpus.clone(),
            mig: BTreeMap::new(),
            registered: START,
            registered_wall_ns: 0,
            decisions: 0,
            incidents: 0,
            contained: Default::default(),
        };
        self.silence.started(&run, self.policy);
        self.step(&Input::RunStarted(run));
        self.sample();
    }

    /// Time passes until so long after the start.
    fn until(&mut self, at: Span) {
        let now = MonoTime(START.0 + at.0);
        self.over(at, false);
        self.now = now;
        let seen: Vec<Source> =
            self.blind.iter().filter(|(_, until)| **until <= now).map(|(source, _)| *source).collect();
        for source in seen {
            self.blind.remove(&source);
            self.gap(source, false, 0, "the sensor sees again");
        }
        let read: Vec<(Kind, GpuId)> =
            self.unread.iter().filter(|(_, until)| **until <= now).map(|(key, _)| key.clone()).collect();
        for (kind, gpu) in read {
            self.unread.remove(&(kind.clone(), gpu.clone()));
            self.read_again(kind, gpu, None);
        }
    }

    fn tick(&mut self) {
        if self.ended {
            return;
        }
        self.sample();
        let (run, frozen, suspended) = (self.run, self.frozen(), self.state.is_suspended(self.run));
        for input in self.silence.tick(self.now, |id| id == run && frozen, |id| id == run && suspended) {
            self.step(&input);
        }
        self.step(&Input::Tick(self.now));
    }

    /// What sensors report of themselves: without it they would count as blind.
    fn sample(&mut self) {
        for (source, kind) in self.samples.clone() {
            if self.blind.contains_key(&source) {
                continue;
            }
            let subjects: Vec<Subject> = if source == Source::Nvml {
                self.case.gpus.iter().map(|gpu| Subject::Gpu(gpu.clone())).collect()
            } else {
                vec![Subject::Run(self.run)]
            };
            for subject in subjects {
                self.signal(source, subject, kind.clone(), Value::Integer(0));
            }
        }
    }

    fn frozen(&self) -> bool {
        self.state.run(self.run).is_some_and(|view| view.frozen)
    }

    fn step(&mut self, input: &Input) {
        self.ran.inputs += 1;
        let decisions = step(&self.policies, &mut self.state, input);
        let coverage = &mut self.ran.coverage;
        self.state.visit_tests(self.run, |rule, test, truth| coverage.saw(rule, test, truth));
        for decision in decisions {
            self.carry_out(&decision);
            if let Some(id) = of_rule(&decision)
                && let Some(rule) = self.ran.coverage.rules.iter_mut().find(|rule| rule.id == *id)
            {
                rule.matched += 1;
            }
            if matches!(decision.cause, Cause::Upkeep { what: Upkeep::Blind })
                && let Some(unseen) = unseen(input)
            {
                self.ran.unseen.insert(decision.id, unseen);
            }
            if !matches!(decision.cause, Cause::Operator(_)) {
                self.ran.decisions.push(decision);
            }
        }
    }

    fn carry_out(&mut self, decision: &Decision) {
        if decision.mode == Mode::Observe {
            return;
        }
        for action in &decision.actions {
            let outcome = Outcome {
                decision: decision.id,
                incident: decision.incident,
                action: *action,
                verdict: Verdict::Proved,
                proofs: Vec::new(),
                at: self.now,
                took: Span(0),
            };
            self.step(&Input::Outcome(outcome));
            if *action == Action::Kill && !self.ended {
                self.ended = true;
            }
        }
    }

    fn finish(mut self) -> Ran {
        self.over(Span(u64::MAX), true);
        self.ran
    }
}

/// The rule that decided.
pub(crate) fn of_rule(decision: &Decision) -> Option<&String> {
    if let Cause::Rule { rule, .. } = &decision.cause { Some(rule) } else { None }
}

/// What an input says was not seen.
fn unseen(input: &Input) -> Option<String> {
    match input {
        Input::Silent(silent) => silent.why.as_ref().map(|why| format!("metric.{}: {why}", silent.metric)),
        Input::Missing(missing) => Some(missing.text()),
        Input::Unread(unread) => unread.why.as_ref().map(|why| format!("{} of {}: {why}", unread.kind, unread.gpu)),
        Input::Gap(gap) => Some(format!("{}: {}", gap.source, gap.what)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
