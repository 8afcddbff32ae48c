//! What follows from an input: the engine is stepped, the containment that it decides begins, and then it is written down.
//!
//! Invariants: containment begins before its record is written; the record of an outcome stands behind that of its decision.

use super::{
    Pipeline, blindness,
    containment::{self, Answer},
    judge::Stepped,
    named,
};
use crate::interpreter::ActuatorReport;
use failsafe_core::{
    Action, Decision, Input, Mode, Outcome, RunId, Signal, Value,
    decision::{Cause, Upkeep, Verdict},
    drill::is_drill,
    engine,
    event::Event,
    record::{Record, RuleText},
    replay::Recorded,
    shadow::is_compared,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// After a freeze the processor is left to the run for this time, at most once in [`GIVES_WAY_EVERY`]. See ADR 23.
const GIVES_WAY_FOR: Duration = Duration::from_micros(100);
const GIVES_WAY_EVERY: Duration = Duration::from_millis(2);

/// Lines about decisions of one run in the daemon's own log, in a second. The audit log has them all.
const LINES: u32 = 8;

/// How many lines each run had of late.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<RunId, Said>);

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Lines {
    /// Whether a decision of the run has a line, with how many had none since the last line. What contains always has one.
    fn next(&mut self, run: RunId, contains: bool, now: Instant) -> Option<u64> {
        let said = self.0.entry(run).or_insert(Said { since: now, lines: 0, left_out: 0 });
        if now.saturating_duration_since(said.since) >= Duration::from_secs(1) {
            (said.since, said.lines) = (now, 0);
        }
        if said.lines >= LINES && !contains {
            said.left_out += 1;
            return None;
        }
        said.lines = said.lines.saturating_add(1);
        Some(std::mem::take(&mut said.left_out))
    }

    pub(super) fn ended(&mut self, run: RunId) {
        self.0.remove(&run);
    }
}

impl Pipeline {
    /// Numbers an input, steps the engine, begins what it decided, and then writes it all down.
    pub(super) fn feed(&mut self, input: Input) -> Vec<Decision> {
        let stepped = self.advance(input);
        self.carry_out(stepped)
    }

    /// Numbers an input, steps the engine, and publishes what it desires now.
    fn advance(&mut self, input: Input) -> Stepped {
        let stepped = self.judge.step(input);
        self.publish(&stepped);
        stepped
    }

    /// The containment of the runs for which it may have changed. Before what is decided is begun: a thaw that is still
    /// running then gives way to a freeze.
    fn publish(&self, Stepped { input, decisions }: &Stepped) {
        let of_input = match input {
            Input::RunStarted(run) => Some(run.id),
            Input::Outcome(outcome) => Some(outcome.decision.run),
            // Who wants a freeze changes without a decision, where the run is frozen already.
            Input::Mode { run, .. } => Some(*run),
            Input::Signal(Signal { value: Value::Event(Event::Latched | Event::Drift { .. }), subject, .. }) => {
                subject.run()
            }
            // These change it by their decisions only.
            Input::Signal(_)
            | Input::Gap(_)
            | Input::Unread(_)
            | Input::Silent(_)
            | Input::Missing(_)
            | Input::SeriesEnded { .. }
            | Input::Manifest { .. }
            | Input::RunGpus { .. }
            | Input::RunEnded { .. }
            | Input::Tick(_)
            | Input::Paused { .. }
            | Input::Control(_) => None,
        };
        let changed: BTreeSet<RunId> = of_input.into_iter().chain(decisions.iter().map(|d| d.id.run)).collect();
        for id in changed {
            let (Some(live), Some(containment)) = (self.runs.get(&id), self.judge.state.containment(id)) else {
                continue;
            };
            let mut status = live.status();
            status.containment.clone_from(containment);
            if let Input::Outcome(outcome) = input {
                status.frozen.takes(outcome, containment);
                // Of one run at a time, with a few outcomes.
                if let Some(seen) = &mut status.drill {
                    seen.push(outcome.clone());
                }
            }
        }
    }

    fn carry_out(&mut self, Stepped { input, decisions }: Stepped) -> Vec<Decision> {
        for decision in &decisions {
            self.begin(decision, &input);
        }
        // After the containment, which nothing may delay.
        match &input {
            Input::RunStarted(run) => self.parts.registry.touched().note(run.id),
            Input::Outcome(outcome) => self.parts.registry.touched().note(outcome.decision.run),
            _ => {}
        }
        if !matches!(input, Input::Tick(_)) {
            self.parts.health.take(&input);
        }
        match &input {
            Input::Signal(signal) if signal.subject.run().is_some() => {
                if let Some(run) = signal.subject.run().filter(|run| self.runs.contains_key(run)) {
                    if let (Value::Event(event), Some(live)) = (&signal.value, self.runs.get(&run)) {
                        live.count(event, signal.repeats);
                    }
                    self.record(run, input, &decisions);
                }
            }
            _ => {
                let concerns = |run: &RunId| engine::concerns(&self.judge.state, &input, *run);
                let concerned: Vec<RunId> = if engine::is_of_a_gpu(&input) {
                    let on_gpus = self.judge.state.on_gpus().filter(|run| self.runs.contains_key(run));
                    on_gpus.filter(concerns).collect()
                } else {
                    self.runs.keys().copied().filter(concerns).collect()
                };
                concerned.into_iter().for_each(|run| self.record(run, input.clone(), &decisions));
            }
        }
        // Outcomes come after the decision's record, and step the engine again.
        for outcome in std::mem::take(&mut self.at_once) {
            self.told(ActuatorReport::Outcome(outcome));
        }
        decisions
    }

    /// Records an input of the run, and what of it was decided about the run.
    pub(super) fn record(&mut self, run: RunId, input: Input, decisions: &[Decision]) {
        self.parts.shadows.entry(run, &input, decisions, || self.judge.state.is_frozen(run));
        self.parts.recordings.entry(run, Recorded::Input(input));
        for decision in decisions.iter().filter(|d| d.id.run == run) {
            self.parts.recordings.entry(run, Recorded::Decision(decision.clone()));
        }
    }

    /// A process freezes when it gets a processor, which this thread would keep for the record of the decision. It leaves it for a
    /// moment, and only now and then: freezes that follow at once do not wait.
    fn give_way(&mut self, decision: &Decision) {
        let freezes = decision.mode == Mode::Enforce && decision.actions.contains(&Action::Freeze);
        if freezes && self.gave_way.is_none_or(|last| last.elapsed() >= GIVES_WAY_EVERY) {
            std::thread::sleep(GIVES_WAY_FOR);
            self.gave_way = Some(Instant::now());
        }
    }

    fn begin(&mut self, decision: &Decision, input: &Input) {
        let Some(live) = self.runs.get(&decision.id.run).cloned() else { return };
        if let Some(view) = self.judge.state.run(decision.id.run) {
            let mut status = live.status();
            status.decisions = view.decisions;
            status.incidents = view.incidents;
            status.incident = (view.frozen || view.blocked).then_some(decision.incident);
            let by_policy = is_compared(decision) && decision.mode == Mode::Enforce;
            status.interventions += u32::from(by_policy && decision.actions.iter().any(|action| action.contains()));
        }
        self.ends.begun(decision);
        let decided = self.parts.log.stamp();
        let refused = self.parts.interpreter.begin(&live, decision, || self.judge.state.last_signals(decision.id.run));
        self.at_once.extend(refused);
        self.parts.registry.touched().note(live.run.id);
        self.give_way(decision);
        let rule = match &decision.cause {
            Cause::Rule { rule, .. } => live.policy.rule(rule).map(|rule| RuleText {
                rationale: rule.rationale.clone(),
                owner: rule.owner.clone(),
                playbook: rule.playbook.clone(),
                policy: named(&live.policy),
                effect: rule.effect,
            }),
            Cause::Upkeep { what } => Some(RuleText::of_upkeep(&live.policy, named(&live.policy), *what)),
            Cause::Operator(_) => None,
        };
        let contains = decision.mode == Mode::Enforce && decision.actions.iter().any(|action| action.contains());
        if let Some(left_out) = self.lines.next(decision.id.run, contains, Instant::now()) {
            let actions: Vec<String> = decision.actions.iter().map(Action::to_string).collect();
            tracing::warn!(
                run = %decision.id.run, name = live.run.name, incident = %decision.incident, cause = ?decision.cause,
                actions = actions.join(","), mode = ?decision.mode, left_out, "decision"
            );
        }
        let blind = match &decision.cause {
            Cause::Upkeep { what: Upkeep::Blind } => {
                Some(blindness::cause(&self.judge.state, &self.judge.policies, decision, input))
            }
            Cause::Upkeep { what: Upkeep::Drift } => self.differences.clone(),
            _ => None,
        };
        let drill = is_drill(&live.run.labels);
        let record = Record::Decision { decision: decision.clone(), rule, blind, drill };
        self.parts.log.record_at(decided, &record, Some(decision.id.run), Some(decision.incident));
        if decision.mode == Mode::Enforce {
            self.cordons(decision, &live.run.name);
        }
    }

    pub(super) fn outcome(&mut self, mut outcome: Outcome) {
        self.show_disarmed(&mut outcome);
        if let Action::Recapture { .. } = outcome.action {
            self.ends.recaptured(outcome.decision.run);
        }
        // Before the answer: whoever waits for it then finds the run as it was answered.
        let stepped = self.advance(Input::Outcome(outcome.clone()));
        match &outcome.verdict {
            Verdict::Proved => {
                tracing::info!(incident = %outcome.incident, action = %outcome.action, took = %outcome.took, "proved")
            }
            Verdict::Partial(missing) => {
                tracing::warn!(incident = %outcome.incident, action = %outcome.action, ?missing, "partial");
            }
            Verdict::Failed(cause) => {
                tracing::error!(incident = %outcome.incident, action = %outcome.action, cause, "failed")
            }
        }
        let last =
            !matches!(outcome.verdict, Verdict::Partial(_)) || !self.containments.is_partial(outcome.decision.run);
        let tell = self.waiting.of(&outcome, last);
        let record = Record::Outcome(outcome.clone());
        let (run, incident) = (Some(outcome.decision.run), Some(outcome.incident));
        let answer = Answer { outcome: outcome.clone(), durable: false, last };
        let is_dead = outcome.action == Action::Kill
            && outcome.verdict == Verdict::Proved
            && self.runs.get(&outcome.decision.run).is_some_and(|live| live.is_over());
        if is_dead {
            self.ends.killed(outcome.decision.run, tell.map(|tell| (answer, tell)), Instant::now());
            self.parts.log.record(&record, run, incident);
            self.carry_out(stepped);
            return;
        }
        match tell {
            Some(tell) => {
                let _gone = tell.send(answer.clone());
                self.parts.log.record_then(&record, run, incident, move |done| {
                    if done.is_ok() {
                        let _gone = tell.send(Answer { durable: true, ..answer });
                    }
                });
            }
            None => {
                self.parts.log.record(&record, run, incident);
            }
        }
        self.carry_out(stepped);
    }

    pub(super) fn told(&mut self, told: ActuatorReport) {
        match told {
            ActuatorReport::Outcome(outcome) => {
                let run = self.runs.get(&outcome.decision.run);
                let status = run.map(|r| r.status().clone()).unwrap_or_default();
                let gpus = run.map(|r| containment::proved_by(&status.gpus, &r.run.mig)).unwrap_or_default();
                // A thaw that gave way to a later freeze shows nothing of what that one has proved, and the reverse.
                let overtaken = match outcome.action {
                    Action::Thaw => status.containment.is_frozen(),
                    Action::Freeze => !status.containment.is_frozen(),
                    _ => false,
                };
                let outcome = if overtaken { outcome } else { self.containments.frozen(outcome, &gpus) };
                self.outcome(outcome);
            }
            ActuatorReport::Evidence { decision, snapshot } => {
                let record = Record::Evidence { decision: decision.id.n, snapshot };
                self.parts.log.record(&record, Some(decision.id.run), Some(decision.incident));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_few_lines_a_second_and_every_one_about_a_containment() {
        let (run, other) = (RunId(uuid::Uuid::from_u128(1)), RunId(uuid::Uuid::from_u128(2)));
        let (mut lines, now) = (Lines::default(), Instant::now());
        let written = (0..1_000).filter(|_| lines.next(run, false, now).is_some()).count();
        assert_eq!(written, 8);
        assert_eq!(lines.next(run, true, now), Some(992), "a containment, and how many had no line");
        assert_eq!(lines.next(other, false, now), Some(0), "of another run");
        assert_eq!(lines.next(run, false, now + Duration::from_secs(1)), Some(0));
        lines.ended(run);
        assert_eq!(lines.0.len(), 1);
    }
}
