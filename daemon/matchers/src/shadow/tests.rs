//! A shadow decides as its policy says, whatever the policy in force refused.

use super::*;
use failsafe_core::{
    Signal, Subject,
    event::{Assurance, Event, NetOp, Verdict},
    input::{Command, Control},
    policy::parse::parse,
    shadow::Difference,
    signal::{Real, Source},
};

const HEAD: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

fn denied(list: &str) -> Arc<Policy> {
    let rule = "[[rule]]\nid = \"leaves\"\nrationale = \"x\"\nwhen = { event = \"connect\", verdict = \"denied\" }\nactions = [\"freeze\"]\n";
    Arc::new(parse("p", &format!("{HEAD}[egress]\nallow = [{list}]\n{rule}")).unwrap())
}

fn loss(above: &str) -> Arc<Policy> {
    let rule = format!(
        "[[rule]]\nid = \"diverged\"\nrationale = \"x\"\nwhen = {{ signal = \"metric.loss\", above = {above} }}\nactions = [\"freeze\"]\n"
    );
    Arc::new(parse("p", &format!("{HEAD}{rule}")).unwrap())
}

/// Both policies on the same inputs.
struct Bench {
    beside: Beside,
    enforced: (PolicySet, State),
    shadow: Shadow,
    tally: Tally,
}

impl Bench {
    fn new(enforced: &Arc<Policy>, shadow: &Arc<Policy>) -> Bench {
        let run = Run {
            id: "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".parse().unwrap(),
            name: "job".into(),
            labels: Default::default(),
            owner_uid: 1000,
            cgroup: "c".into(),
            cgroup_id: 7,
            boot_id: "b".into(),
            policy: enforced.digest(),
            gpus: Default::default(),
            mig: Default::default(),
            registered: MonoTime(0),
            registered_wall_ns: 0,
            decisions: 0,
            incidents: 0,
            contained: Contained::default(),
        };
        let policies = PolicySet::from([(enforced.digest(), enforced.clone())]);
        let mut state = State::default();
        step(&policies, &mut state, &Input::RunStarted(run.clone()));
        let beside = Beside { run, enforced: enforced.clone(), wall_offset_ns: 0 };
        let shadow = Shadow::begin(&beside, shadow.clone(), Now::default());
        Bench { beside, enforced: (policies, state), shadow, tally: Tally::default() }
    }

    fn feed(&mut self, input: Input) {
        let decisions = step(&self.enforced.0, &mut self.enforced.1, &input);
        let frozen = self.enforced.1.is_frozen(self.beside.run.id);
        self.shadow.take(&self.beside, &input, &decisions, frozen, &mut self.tally);
    }

    fn signal(&mut self, s: u64, source: Source, kind: Kind, value: Value) {
        let (at, subject) = (MonoTime(s * 1_000_000_000), Subject::Run(self.beside.run.id));
        self.feed(Input::Signal(Signal { seq: s, at, source, subject, kind, value, repeats: 0 }));
    }

    fn connect(&mut self, s: u64, to: &str, verdict: Verdict) {
        let to: std::net::SocketAddr = to.parse().unwrap();
        let (address, port, assurance) = (to.ip(), to.port(), Assurance::Observed);
        let event = Event::Net { op: NetOp::Connect, protocol: 6, address, port, family: 2, verdict, assurance };
        self.signal(s, Source::Ebpf, Kind::Event, Value::Event(event));
    }

    fn loss(&mut self, s: u64, loss: f64) {
        self.signal(s, Source::App, Kind::Metric("loss".into()), Value::Real(Real(loss)));
    }

    fn counts(&self) -> [u64; 5] {
        let [only_enforced, only_shadow, earlier, later] = Difference::ALL.map(|one| self.tally.total(one));
        [self.tally.same(), only_enforced, only_shadow, earlier, later]
    }
}

const A: &str = "{ cidr = \"10.0.0.0/8\" }";
const AB: &str = "{ cidr = \"10.0.0.0/8\" }, { cidr = \"192.0.2.0/24\" }";

#[test]
fn what_only_the_policy_in_force_refuses_trips_no_rule_of_the_shadow() {
    let mut bench = Bench::new(&denied(A), &denied(AB));
    bench.connect(1, "192.0.2.1:443", Verdict::Denied);
    assert_eq!(bench.counts(), [0, 1, 0, 0, 0], "{:?}", bench.tally);
    bench.connect(2, "198.51.100.1:443", Verdict::Denied);
    assert_eq!(bench.counts(), [0, 0, 0, 0, 1], "both refuse that one: the shadow's first decision is a second later");
}

#[test]
fn what_only_the_shadow_would_refuse_is_its_decision() {
    let mut bench = Bench::new(&denied(AB), &denied(A));
    bench.connect(1, "192.0.2.1:443", Verdict::Allowed);
    assert_eq!(bench.counts(), [0, 0, 1, 0, 0]);
    let mut tally = bench.tally.clone();
    bench.shadow.conclude(&bench.beside, &mut tally);
    assert!(
        tally.lacks().any(|lack| lack.rule.as_deref() == Some("leaves")),
        "allowed calls are not reported: {tally:?}"
    );
}

#[test]
fn a_section_that_only_one_of_the_policies_observes_is_named() {
    let enforcing = denied(A);
    let observing = Arc::new(Policy { egress: enforcing.observing().egress, ..(*enforcing).clone() });
    for (enforced, shadow, named) in
        [(&observing, &enforcing, true), (&enforcing, &observing, true), (&enforcing, &enforcing, false)]
    {
        let bench = Bench::new(enforced, shadow);
        let mut tally = bench.tally.clone();
        bench.shadow.conclude(&bench.beside, &mut tally);
        assert_eq!(tally.lacks().any(|lack| lack.what.starts_with("[egress] only observes")), named, "{tally:?}");
    }
}

#[test]
fn a_lower_bound_trips_earlier_and_nothing_that_is_done_to_the_run_changes_the_shadow() {
    let mut bench = Bench::new(&loss("10.0"), &loss("5.0"));
    bench.loss(1, 1.0);
    bench.loss(2, 6.0);
    let observed = Input::Mode { run: bench.beside.run.id, mode: Mode::Enforce, at: MonoTime(2_500_000_000) };
    bench.feed(observed);
    bench.loss(4, 11.0);
    assert_eq!(bench.counts(), [0, 0, 0, 1, 0]);
    let (_, row) = bench.tally.rows().next().unwrap();
    assert_eq!(row.examples(Difference::Earlier).next().unwrap().by_ns, 2_000_000_000);
    assert_eq!(bench.tally.after_contained, 0);
}

#[test]
fn decisions_after_one_that_would_have_contained_the_run_are_counted_as_such() {
    let mut bench = Bench::new(&loss("100.0"), &loss("5.0"));
    for (s, value) in [(1, 6.0), (2, 1.0), (3, 7.0)] {
        bench.loss(s, value);
    }
    assert_eq!(bench.counts(), [0, 0, 2, 0, 0]);
    assert_eq!(bench.tally.after_contained, 1);
}

#[test]
fn commands_of_operators_are_no_difference() {
    let mut bench = Bench::new(&loss("10.0"), &loss("10.0"));
    let (run, role, reason) = (bench.beside.run.id, "admin".to_owned(), "x".to_owned());
    for (s, command) in [(1, Command::Freeze), (2, Command::Thaw)] {
        let actor = failsafe_core::Actor::Daemon;
        let at = MonoTime(s * 1_000_000_000);
        bench.feed(Input::Control(Control {
            seq: s,
            at,
            run,
            command,
            actor,
            role: role.clone(),
            reason: reason.clone(),
        }));
    }
    bench.loss(3, 11.0);
    assert_eq!(bench.counts(), [1, 0, 0, 0, 0]);
}

#[test]
fn a_signal_that_never_came_is_named() {
    let bench = Bench::new(&loss("10.0"), &loss("5.0"));
    let mut tally = Tally::default();
    bench.shadow.conclude(&bench.beside, &mut tally);
    assert!(tally.lacks().any(|lack| lack.what.contains("metric.loss")), "{tally:?}");
}

#[test]
fn time_in_which_the_policy_in_force_has_the_run_frozen_is_not_absence_for_the_shadow() {
    let rules = |diverges: &str| {
        let text = format!(
            "{HEAD}[[rule]]\nid = \"diverged\"\nrationale = \"x\"\nwhen = {{ signal = \"metric.loss\", above = {diverges} }}\n\
             actions = [\"freeze\"]\n\
             [[rule]]\nid = \"silent\"\nrationale = \"x\"\nwhen = {{ signal = \"metric.loss\", absent = \"5m\" }}\nactions = [\"notify\"]\n"
        );
        Arc::new(parse("p", &text).unwrap())
    };
    let mut bench = Bench::new(&rules("5"), &rules("50"));
    let tick = |bench: &mut Bench, s: u64| bench.feed(Input::Tick(MonoTime(s * 1_000_000_000)));
    bench.loss(1, 6.0);
    assert_eq!(bench.counts(), [0, 1, 0, 0, 0], "only the policy in force freezes");
    (2..900).for_each(|s| tick(&mut bench, s));
    assert_eq!(bench.counts(), [0, 1, 0, 0, 0], "a frozen run reports nothing");
    let thaw = Control {
        seq: 0,
        at: MonoTime(900 * 1_000_000_000),
        run: bench.beside.run.id,
        command: Command::Thaw,
        actor: failsafe_core::Actor::Daemon,
        role: "admin".into(),
        reason: "test".into(),
    };
    bench.feed(Input::Control(thaw));
    (901..1_190).for_each(|s| tick(&mut bench, s));
    assert_eq!(bench.counts(), [0, 1, 0, 0, 0]);
    (1_190..1_220).for_each(|s| tick(&mut bench, s));
    assert_eq!(bench.counts(), [1, 1, 0, 0, 0], "both count from the thaw on");
}
