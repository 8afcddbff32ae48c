//! What the engine has of a run's containment is what the reader of the audit log makes of its decisions and outcomes,
//! across restarts.

use super::*;
use crate::{
    containment::Containment,
    decision::Proof,
    event::{DriftSince, FactorClass},
};

/// An engine, and the containment as the next daemon would read it from the log.
struct Pair {
    bench: Bench,
    logged: Containment,
    last: Option<DecisionId>,
    ms: u64,
}

impl Pair {
    fn takes(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            self.logged.decided(decision);
            self.last = Some(decision.id);
        }
    }

    fn outcome(&mut self, action: Action, verdict: Verdict) {
        let run = self.bench.run;
        let outcome = Outcome {
            decision: self.last.unwrap_or(DecisionId { run, n: 1 }),
            incident: IncidentId::new(run, 1),
            action,
            verdict,
            proofs: vec![Proof { fact: "fact".into(), seen: "seen".into() }],
            at: at(self.ms),
            took: Span::from_millis(1),
        };
        self.logged.came_out(&outcome);
        let decisions = self.bench.feed(Input::Outcome(outcome));
        self.takes(&decisions);
    }

    /// The next daemon takes the run up, by what the log has and by what the kernel reports.
    fn restart(&mut self, is_frozen: bool, recalls: bool) {
        let view = self.bench.state.run(self.bench.run).unwrap();
        let contained = Contained {
            frozen: self.logged.is_frozen() || is_frozen,
            blocked: self.logged.is_latched(),
            unexplained: is_frozen && !self.logged.is_frozen(),
        };
        self.logged = self.logged.clone().found(contained, is_frozen, at(self.ms));
        self.bench.state = State::default();
        if recalls {
            self.bench.state.recall(self.bench.run, self.logged.clone());
        }
        let policy = *self.bench.policies.keys().next().unwrap();
        let (decisions, incidents) = (view.decisions, view.incidents);
        let registered = at(self.ms);
        let run = Run { contained, decisions, incidents, registered, ..started(self.bench.run, policy) };
        let decisions = self.bench.feed(Input::RunStarted(run));
        self.takes(&decisions);
    }

    fn step(&mut self, what: u8, fine: bool, recalls: bool) {
        self.ms += 100;
        let verdict = if fine { Verdict::Proved } else { Verdict::Failed("EIO".into()) };
        let partial = || Verdict::Partial(vec!["pid 7 in D".into()]);
        let decisions = match what {
            0 => self.bench.control(self.ms, Command::Freeze),
            1 | 2 => self.bench.control(self.ms, Command::Thaw),
            3 => self.bench.control(self.ms, Command::Kill),
            4 => self.bench.event(self.ms, connect(4444, Net::Denied)),
            5 => self.bench.event(self.ms, Event::ForeignThaw { levels: 1 }),
            6 => self.bench.event(self.ms, Event::Latched),
            7 => return self.outcome(Action::Freeze, if fine { verdict } else { partial() }),
            8 => return self.outcome(Action::Freeze, verdict),
            9 => return self.outcome(Action::Thaw, if fine { verdict } else { partial() }),
            10 | 11 => return self.outcome(Action::Thaw, verdict),
            12 => return self.outcome(Action::Block, verdict),
            13 => return self.outcome(Action::Kill, verdict),
            _ => return self.restart(fine, recalls),
        };
        self.takes(&decisions);
    }
}

fn pair() -> Pair {
    Pair { bench: Bench::new(), logged: Containment::default(), last: None, ms: 0 }
}

#[test]
fn a_restart_keeps_since_when_and_by_whom_a_run_is_frozen() {
    let mut p = pair();
    p.step(0, true, true);
    p.step(8, true, true);
    let before = p.logged.clone();
    p.step(14, true, true);
    assert_eq!(p.bench.state.containment(p.bench.run), Some(&before));
    let by = before.steps()[0].desired.as_ref().unwrap();
    assert_eq!((by.actor.clone(), by.since), (actor(0, 1), at(100)));
}

#[test]
fn a_run_that_is_found_frozen_without_a_reason_has_a_decision_that_is_not_proved_yet() {
    let mut p = pair();
    p.step(14, true, true);
    let steps = p.bench.state.containment(p.bench.run).unwrap().steps();
    assert!(steps[0].desired.is_some() && steps[0].result.is_none(), "{steps:?}");
    assert_eq!(p.last.map(|id| id.n), Some(1));
}

proptest! {
    #[test]
    fn engine_and_log_agree_on_the_containment_in_any_order_of_decisions_outcomes_and_restarts(
        moves in prop::collection::vec((0u8..16, any::<bool>()), 0..40)
    ) {
        // Without the facts from before, as a replay has it, the same is decided.
        let (mut p, mut replayed) = (pair(), pair());
        for (what, fine) in moves {
            p.step(what, fine, true);
            replayed.step(what, fine, false);
            let engine = p.bench.state.containment(p.bench.run).unwrap();
            prop_assert_eq!(engine, &p.logged, "after {:?}", (what, fine));
            prop_assert_eq!(p.bench.state.run(p.bench.run), replayed.bench.state.run(p.bench.run));
        }
    }
}

/// Whether the owner of the run may thaw it, and its freeze stays its own.
fn is_of_owner(b: &Bench) -> bool {
    b.state.is_ordered_by_owner_alone(b.run)
}

#[test]
fn what_is_not_decided_because_the_owner_froze_the_run_counts_as_an_order_of_others() {
    let policy = "[policy]\nname = \"p\"\nowner = \"o\"\non_blind = \"freeze\"\non_drift = \"hold\"\n";
    let drifts = |since| {
        let (path, old, new) = ("run/cpu/list".to_owned(), Some("a".into()), Some("b".into()));
        Event::Drift { path, old, new, class: FactorClass::Result, since }
    };
    for (event, others) in [
        (Event::Latched, true),
        (drifts(DriftSince::Predecessor), true),
        (drifts(DriftSince::Earlier), false),
        (Event::ForeignThaw { levels: 1 }, true),
    ] {
        let mut b = Bench::with(policy);
        b.control_as("owner", 1, Command::Freeze);
        assert!(is_of_owner(&b));
        b.event(2, event.clone());
        assert_eq!(is_of_owner(&b), !others, "{event:?}");
    }
    // What observe mode holds back is done when it ends: a thaw in between must not drop it.
    let mut b = Bench::with(policy);
    b.feed(Input::Mode { run: b.run, mode: Mode::Observe, at: at(1) });
    b.event(2, Event::Latched);
    b.control_as("owner", 3, Command::Freeze);
    assert!(!is_of_owner(&b));
}

#[test]
fn a_thaw_of_the_owner_puts_off_no_rule() {
    let text = "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"r\"\nrationale = \"x\"\n\
                when = { signal = \"metric.loss\", above = 50.0, rearm = \"after 5m\" }\nactions = [\"freeze\"]\n";
    let again = |b: &mut Bench, role: &str| {
        assert_eq!(b.loss(1, 100.0).len(), 1);
        b.control(2, Command::Thaw);
        b.control_as("owner", 200_000, Command::Freeze);
        b.control_as(role, 200_001, Command::Thaw);
        b.loss(300_002, 100.0).len()
    };
    let mut b = Bench::with(text);
    assert_eq!(again(&mut b, "owner"), 1, "5 minutes after the thaw of the administrator");
    assert_eq!(again(&mut Bench::with(text), "admin"), 0, "5 minutes after the second thaw");
    // Earlier engines did not tell one from the other.
    assert!(b.replay(13).replayed.len() < b.replay(crate::replay::ENGINE).replayed.len());
}
