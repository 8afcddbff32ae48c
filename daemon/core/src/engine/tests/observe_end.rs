//! The end of observe mode: what held meanwhile, and was not acted upon, is judged again, and a recording with it replays.

use super::*;
use crate::{
    event::{DriftSince, ExecKind, FactorClass},
    input::{Gap, Unread},
    signal::{Claimed, Series},
};

fn policy(head: &str, rules: &[(&str, &str)]) -> String {
    let one = |(n, (when, rest)): (usize, &(&str, &str))| {
        format!("[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\nwhen = {{ {when} }}\nactions = [\"freeze\"]\n{rest}\n")
    };
    format!("[policy]\nname = \"p\"\nowner = \"o\"\n{head}\n{}", rules.iter().enumerate().map(one).collect::<String>())
}

fn with_rule(when: &str) -> Bench {
    Bench::with(&policy("", &[(when, "")]))
}

impl Bench {
    fn mode(&mut self, ms: u64, mode: Mode) -> Vec<Decision> {
        self.feed(Input::Mode { run: self.run, mode, at: at(ms) })
    }

    fn observe(&mut self, ms: u64) {
        assert!(self.mode(ms, Mode::Observe).is_empty());
    }

    fn enforce(&mut self, ms: u64) -> Vec<Decision> {
        self.mode(ms, Mode::Enforce)
    }

    fn is_frozen(&self) -> bool {
        self.state.run(self.run).unwrap().frozen
    }

    fn loss_of(&mut self, ms: u64, rank: &str, loss: f64) -> Vec<Decision> {
        let value = Claimed { value: Real(loss), step: None, series: Series::rank(rank).unwrap() };
        self.signal(ms, Subject::Run(self.run), Kind::Metric("loss".into()), Value::Claimed(value))
    }

    fn temperature(&mut self, ms: u64, gpu: &str, degrees: i64) -> Vec<Decision> {
        self.signal(ms, Subject::Gpu(GpuId(gpu.into())), Kind::GpuTemperature, Value::Integer(degrees * 1_000))
    }

    fn sees(&mut self, ms: u64, source: Source, sees: bool) -> Vec<Decision> {
        self.seq += 1;
        let (seq, run, gpu, what) = (self.seq, None, None, "x".to_owned());
        self.feed(Input::Gap(Gap { seq, at: at(ms), source, run, gpu, what, lost: 0, blind: !sees }))
    }

    /// A replay decides the same, and has decided something.
    fn replays(&self) {
        let again = self.replay(ENGINE);
        assert!(again.identical() && !again.recorded.is_empty(), "{again:?}");
    }
}

/// The only decision: whether it is enforced, when it was made, and the numbers of its inputs.
fn only(decisions: &[Decision]) -> (Mode, MonoTime, &[u64]) {
    let [one] = decisions else { panic!("expected one decision: {decisions:?}") };
    (one.mode, one.at, &one.because)
}

const MORE_THAN_1_GB: &str = "signal = \"net.egress_bytes\", above = \"1 GB\"";
const HOT: &str = "signal = \"gpu.temperature\", above = \"90 C\"";
const DENIED: &str = "event = \"connect\", verdict = \"denied\"";
const DENIED_THIS_WEEK: &str = "all = [{ event = \"connect\", verdict = \"denied\", within = \"7d\" }, { signal = \"net.egress_bytes\", above = \"1 B\" }]";

#[test]
fn a_total_that_never_falls_freezes_the_run_when_observe_mode_ends() {
    let tree = "all = [{ signal = \"net.egress_bytes\", above = \"1 GB\" }, { signal = \"net.egress_bytes\", above = \"1 B\" }]";
    for when in [MORE_THAN_1_GB, tree] {
        let mut b = with_rule(when);
        b.observe(1);
        assert_eq!(only(&b.egress(2, 2_000_000_000)).0, Mode::Observe, "{when}");
        assert!(b.egress(3, 3_000_000_000).is_empty());
        let decided = b.enforce(100);
        assert_eq!(only(&decided), (Mode::Enforce, at(100), [2].as_slice()), "{when}");
        assert_eq!(decided[0].values[0].value, Value::Integer(3_000_000_000));
        assert!(b.is_frozen() && b.egress(101, 3_000_000_001).is_empty());
        b.replays();
    }
}

#[test]
fn what_an_operator_thawed_stays_disarmed_after_observe_mode() {
    let mut b = with_rule(MORE_THAN_1_GB);
    assert_eq!(only(&b.egress(1, 2_000_000_000)).0, Mode::Enforce);
    b.observe(2);
    b.control(3, Command::Thaw);
    assert!(b.enforce(4).is_empty() && b.egress(5, 3_000_000_000).is_empty(), "the operator saw it");
    b.observe(6);
    assert!(b.egress(7, 3_000_000_000).is_empty() && b.enforce(8).is_empty());
    b.replays();
}

#[test]
fn a_condition_with_for_counts_the_time_in_observe_mode() {
    let mut b = with_rule("signal = \"metric.loss\", above = 10, for = \"5s\"");
    b.observe(0);
    assert!(b.loss(1_000, 11.0).is_empty());
    assert!(b.enforce(3_000).is_empty(), "for 2 s");
    assert_eq!(only(&b.loss(6_000, 11.0)).0, Mode::Enforce);

    let mut b = with_rule("signal = \"metric.loss\", above = 10, for = \"5s\"");
    b.observe(0);
    assert!(b.loss(1_000, 11.0).is_empty());
    assert_eq!(only(&b.loss(6_000, 11.0)).0, Mode::Observe);
    assert_eq!(only(&b.enforce(7_000)).0, Mode::Enforce);
    b.replays();
}

#[test]
fn a_value_that_came_back_within_the_bound_is_judged_by_its_next_value() {
    let mut b = with_rule("signal = \"metric.loss\", above = 10, clear = 5");
    b.observe(0);
    assert_eq!(only(&b.loss(1, 11.0)).0, Mode::Observe);
    assert!(b.loss(2, 7.0).is_empty());
    assert!(b.enforce(3).is_empty() && !b.is_frozen());
    assert_eq!(only(&b.loss(4, 11.0)).0, Mode::Enforce);
    b.replays();
}

#[test]
fn each_gpu_and_each_series_is_judged_again_by_its_own_value() {
    let mut b = with_rule("signal = \"metric.loss\", is = \"not-finite\"");
    b.observe(0);
    assert_eq!(b.loss_of(1, "0", f64::NAN).len() + b.loss_of(2, "1", f64::NAN).len(), 2);
    assert!(b.loss_of(3, "0", 1.0).is_empty());
    assert_eq!(only(&b.enforce(4)).2, [2], "rank 1 alone is still not a number");
    b.replays();

    let text = policy("", &[(HOT, "")]);
    let mut b = Bench::of(parse("p", &text).unwrap());
    let gpus = ["a", "b"].map(|gpu| GpuId(gpu.into())).into();
    let digest = *b.policies.keys().next().unwrap();
    b.feed(Input::RunStarted(Run { gpus, ..started(id(1), digest) }));
    b.observe(0);
    assert_eq!(b.temperature(1, "a", 95).len() + b.temperature(2, "b", 95).len(), 2);
    b.feed(Input::RunGpus { run: id(1), gpus: [GpuId("b".into())].into(), at: at(3) });
    assert_eq!(only(&b.enforce(4)).2, [2], "the run no longer has GPU a");
    b.replays();
}

#[test]
fn a_value_that_is_not_seen_at_the_end_of_observe_mode_is_judged_when_it_is_seen_again() {
    let mut b = with_rule(HOT);
    b.observe(0);
    assert_eq!(only(&b.temperature(1, "GPU-0", 95)).0, Mode::Observe);
    let (gpu, kind) = (GpuId("GPU-0".into()), Kind::GpuTemperature);
    b.feed(Input::Unread(Unread { seq: 9, at: at(2), source: Source::Nvml, gpu, kind, why: Some("x".into()) }));
    assert!(b.enforce(3).is_empty());
    assert_eq!(only(&b.temperature(4, "GPU-0", 95)).0, Mode::Enforce);
    b.replays();
}

#[test]
fn a_denial_after_observe_mode_trips_whatever_would_have_been_denied_in_it() {
    for when in [DENIED, DENIED_THIS_WEEK] {
        let mut b = with_rule(when);
        b.egress(0, 2);
        b.observe(1);
        assert_eq!(only(&b.event(2, connect(443, Net::WouldDeny))).0, Mode::Observe, "{when}");
        assert!(b.enforce(3).is_empty() && !b.is_frozen(), "{when}: nothing was denied");
        assert!(b.egress(4, 3).is_empty());
        assert_eq!(only(&b.event(5, connect(443, Net::Denied))).0, Mode::Enforce, "{when}");
        assert!(b.is_frozen());
        b.replays();
    }
}

#[test]
fn an_event_that_happened_counts_for_a_condition_after_observe_mode() {
    let exec = || Event::Exec {
        path: "/usr/bin/curl".into(),
        known_as: Vec::new(),
        argv: "curl".into(),
        kind: ExecKind::File,
        verdict: Net::Allowed,
        assurance: Assurance::Observed,
    };
    let mut b = with_rule(
        "all = [{ event = \"exec\", path = \"/usr/bin/curl\", within = \"1h\" }, { signal = \"net.egress_bytes\", above = \"1 B\" }]",
    );
    b.egress(0, 2);
    b.observe(1);
    assert_eq!(only(&b.event(2, exec())).0, Mode::Observe);
    assert_eq!(only(&b.enforce(3)).0, Mode::Enforce);
    b.replays();

    // A denial from before is not hidden by what would have been denied after it.
    let mut b = with_rule(DENIED_THIS_WEEK);
    assert!(b.event(1, connect(443, Net::Denied)).is_empty(), "nothing was sent yet");
    b.observe(2);
    assert!(b.event(3, connect(443, Net::WouldDeny)).is_empty());
    assert!(b.event(4, connect(443, Net::WouldDeny)).is_empty());
    assert!(b.enforce(5).is_empty());
    let decided = b.egress(6, 2);
    assert_eq!(only(&decided), (Mode::Enforce, at(6), [1, 4].as_slice()));
    b.replays();
}

#[test]
fn what_failsafe_would_have_done_of_itself_is_done_when_observe_mode_ends() {
    type Cause = fn(&mut Bench) -> Vec<Decision>;
    type Over = fn(&mut Bench);
    let causes: [(&str, Cause, Option<Over>); 3] = [
        ("blind", |b| b.sees(2, Source::Ebpf, false), Some(|b| drop(b.sees(3, Source::Ebpf, true)))),
        ("latched", |b| b.event(2, Event::Latched), None),
        (
            "drift",
            |b| {
                let (path, old, new) = ("run/cpu/list".to_owned(), Some("a".into()), Some("b".into()));
                b.event(2, Event::Drift { path, old, new, class: FactorClass::Result, since: DriftSince::Predecessor })
            },
            None,
        ),
    ];
    let text = policy("on_blind = \"freeze\"\non_drift = \"hold\"", &[(DENIED, "")]);
    for (name, cause, over) in causes {
        let mut b = Bench::with(&text);
        b.observe(1);
        assert_eq!(only(&cause(&mut b)).0, Mode::Observe, "{name}");
        let decided = b.enforce(9);
        assert_eq!((rules(&decided), only(&decided).0), (vec![name.to_owned()], Mode::Enforce));
        assert!(b.is_frozen());
        b.control(10, Command::Thaw);
        b.observe(11);
        assert!(b.enforce(12).is_empty(), "{name}: once");
        b.replays();
        if let Some(over) = over {
            let mut b = Bench::with(&text);
            b.observe(1);
            cause(&mut b);
            over(&mut b);
            assert!(b.enforce(9).is_empty(), "{name}: no longer so");
        }
    }
}

#[test]
fn a_rule_that_only_observes_records_nothing_again() {
    let tree = "any = [{ signal = \"net.egress_bytes\", above = \"1 GB\" }, { signal = \"metric.loss\", above = 1 }]";
    for when in [MORE_THAN_1_GB, tree] {
        let mut b = Bench::with(&policy("", &[(when, "mode = \"observe\"")]));
        b.observe(1);
        assert_eq!(only(&b.egress(2, 2_000_000_000)).0, Mode::Observe);
        assert!(b.enforce(3).is_empty() && b.egress(4, 2_000_000_001).is_empty(), "{when}");
        b.replays();
    }
}

#[test]
fn a_recording_of_engine_9_replays_without_a_new_judgement() {
    let mut b = Bench::with(&policy("on_blind = \"freeze\"", &[(MORE_THAN_1_GB, ""), (HOT, "")]));
    b.observe(1);
    b.egress(2, 2_000_000_000);
    b.sees(3, Source::Nvml, false);
    assert_eq!(b.enforce(4).len(), 2);
    let decided = |engine| b.replay(engine).replayed.iter().map(|d| d.mode).collect::<Vec<_>>();
    assert_eq!(decided(9), [Mode::Observe, Mode::Observe]);
    assert_eq!(decided(ENGINE), [Mode::Observe, Mode::Observe, Mode::Enforce, Mode::Enforce]);
}
