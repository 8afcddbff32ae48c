//! Each kind of entry is one line.

use super::{record::unwatched_text, *};
use crate::testing::{RUN, contained, control, digest, gap, outcome, root, violation};
use failsafe_core::{
    Actor, Kind, MonoTime, Value,
    decision::{Action, Cause, Observation},
    drill::{Drill, Step},
    event::{Access, Assurance, Event, ExecKind, Gain, GpuEvent, MemoryKind, NetOp, Verdict as Did},
    health::{Change, Happened, Order, OrderKind, Target},
    input::Command,
    policy::PolicyDigest,
    record::Unwatched,
    shadow::Summary,
    subject::{Process, Subject},
    time::Span,
};
use serde_json::json;

/// What a rule saw stands in one line, whatever the run named its files.
#[test]
fn every_event_that_a_rule_saw_is_one_line() {
    let (verdict, assurance) = (Did::Denied, Assurance::BlockedInKernel);
    let address = "2001:db8::9".parse().unwrap();
    let net = |op, family| Event::Net { op, protocol: 6, address, port: 22, family, verdict, assurance };
    let path = || "/tmp/a\n\u{1b}[2J".to_owned();
    let events = [
        Event::Exec {
            path: path(),
            known_as: vec![path()],
            argv: "a b".into(),
            kind: ExecKind::Memfd,
            verdict,
            assurance,
        },
        Event::Fork { child: 0, verdict: Did::WouldDeny },
        Event::Open {
            path: path(),
            known_as: Vec::new(),
            access: Access::Write,
            verdict: Did::WouldDeny,
            assurance: Assurance::ObservedUnreliable,
        },
        net(NetOp::Listen, 10),
        net(NetOp::Socket, 17),
        Event::Privilege { gain: Gain::Userns, verdict, assurance },
        Event::ExecMemory { kind: MemoryKind::Anonymous, verdict, assurance },
        Event::Protect { what: "pins".into(), verdict, assurance },
        Event::Budget { budget: "store".into(), address, bytes: 268_435_456, verdict },
        Event::Dns { name: "a.example.org".into(), address },
    ];
    let mut log = crate::testing::Log::started();
    for (n, event) in (1u32..).zip(events) {
        let process = Process { pid: 42, ppid: 1, uid: 1000, start_ns: 9, comm: "py".into() };
        let subject = Subject::Process { run: crate::testing::run_id(), process };
        let condition = format!("event {}", event.kind().name());
        let seen =
            Observation { seq: 1, at: MonoTime(0), subject, kind: Kind::Event, value: Value::Event(event), repeats: 0 };
        let cause = Cause::Rule { rule: "r".into(), condition, suppressed: 0 };
        let decision = crate::testing::decision(n, u64::from(n), cause, vec![Action::Notify], vec![seen]);
        log.add(u64::from(n), decision);
    }
    let text: String = log.entries.iter().map(|e| line(e, &Names::new(), &TimeZone::UTC, Paint::plain())).collect();
    assert_eq!(text.lines().count(), log.entries.len());
    insta::assert_snapshot!(text);
}

#[test]
fn every_kind_of_entry_is_one_line() {
    let mut log = contained();
    let partial = Verdict::Partial(vec!["pid 7 (D state)".into()]);
    let daemon = Record::DaemonStarted {
        version: "0.1.0".into(),
        kernel: "6.18".into(),
        blind: vec!["ebpf: no BTF".into()],
        orders: None,
    };
    let target = Target::Gpu(failsafe_core::GpuId("GPU-5a".into()));
    let (by, why) = ("user 0 (admin)".to_owned(), "fan replaced".to_owned());
    let actor = Some(root());
    let cordon = Order { kind: OrderKind::Cordon, target: target.clone(), by, actor: actor.clone(), why };
    let change = Change {
        revision: 3,
        target,
        from: Level::Healthy,
        to: Level::Draining,
        added: vec![],
        removed: vec!["blind".into()],
        by: Some("user 0 (admin): fan replaced".into()),
        actor,
        event: None,
        at_ns: 0,
    };
    let drill = Drill {
        run: None,
        name: "failsafe-drill-1".into(),
        result: Finding::Proved,
        stopped_in: Some(Span(812_000)),
        steps: Vec::new(),
        failed: None,
        problem: Some("its process runs\n".into()),
        began_ns: 0,
        took: Span::from_millis(431),
        actor: Actor::Schedule { name: "drill".into() },
        reason: "it is due".into(),
    };
    let found = Summary { inputs: 90, same: 3, only_shadow: 1, ..Summary::default() };
    let shadow = |ended| Record::Shadow {
        run: RUN.parse().unwrap(),
        name: "trainer".into(),
        policy: digest(),
        policy_name: "next v2".into(),
        actor: Actor::Daemon,
        ended,
    };
    let event = Some(Happened { what: GpuEvent::MigConfig, times: 2 });
    let happened = Change { event, by: None, actor: None, removed: vec![], to: Level::Healthy, ..change.clone() };
    log.add(6_000_000, outcome(1, 6_000_000, Action::Kill, partial, &[("populated", "1")]))
        .add(6_100_000, control(6_100_000, 44, Command::Thaw, "false\nalarm"))
        .add(6_200_000, gap(true))
        .add(6_300_000, gap(false))
        .add(6_400_000, daemon)
        .add(6_450_000, Record::Nvml { seen: None, blind: Some("no library".into()) })
        .add(6_460_000, Record::Nvml { seen: Some("simulated (driver 575)".into()), blind: None })
        .add(6_500_000, Record::DaemonStopped)
        .add(
            6_600_000,
            Record::PolicyRefused { policy: PolicyDigest([1; 32]), why: "ebpf is blind".into(), actor: None },
        )
        .add(
            6_700_000,
            Record::RunEnded {
                run: crate::testing::run_id(),
                name: "trainer".into(),
                recording: None,
                suppressed: Vec::new(),
                unwatched: None,
                frozen_ns: None,
            },
        )
        .add(6_710_000, Record::Order(cordon))
        .add(6_720_000, Record::Health(change))
        .add(6_730_000, Record::Health(happened))
        .add(6_735_000, shadow(None))
        .add(6_736_000, shadow(Some(Summary { why: "the run has ended".into(), dropped: 4, ..found })))
        .add(6_740_000, Record::Drill(drill.clone()))
        .add(6_750_000, Record::Drill(Drill { result: Finding::Failed, failed: Some(Step::Still), ..drill }))
        .raw(6_800_000, "recovered", json!({ "dropped_bytes": 77, "why": "checksum mismatch" }))
        .raw(6_900_000, "gap", json!({ "cause": "overflow", "dropped": 9 }))
        .raw(7_000_000, "gap", json!({ "cause": "storage", "failed_commits": 3, "error": "no space" }))
        .raw(7_100_000, "from-the-future", json!({ "x": "\u{1b}[1m" }));
    let names = [(RUN.to_owned(), "trainer".to_owned())].into();
    let text: String = log.entries.iter().map(|e| line(e, &names, &TimeZone::UTC, Paint::plain())).collect();
    assert_eq!(text.lines().count(), log.entries.len());
    insta::assert_snapshot!(text);
}

#[test]
fn entries_of_earlier_versions_with_uid_and_pid_are_shown_as_before() {
    let mut log = contained();
    let control = json!({ "type": "control", "seq": 44, "at": 6_100_000_000u64, "run": RUN, "command": "thaw",
        "uid": 1000, "pid": 99, "role": "owner", "reason": "false alarm" });
    let refused = json!({ "type": "policy-refused", "policy": digest(), "why": "ebpf is blind", "uid": 1000 });
    let mut decided = serde_json::to_value(violation()).unwrap();
    decided["decision"]["cause"] = json!({ "Operator": { "uid": 0, "pid": 99, "role": "admin", "reason": "drill" } });
    let order = json!({ "type": "order", "kind": "cordon", "target": "node", "by": "user 0 (admin)", "why": "fan" });
    log.raw(6_100_000, "control", control).raw(6_200_000, "policy", refused);
    log.raw(6_300_000, "decision", decided).raw(6_400_000, "order", order);
    let shown: Vec<String> = log.entries[log.entries.len() - 4..].iter().map(summary).collect();
    assert_eq!(shown[0], "user 1000 (owner, pid 99) requested thaw: false alarm");
    assert_eq!(shown[1], "policy abababababab of user 1000 refused: ebpf is blind");
    assert!(shown[2].contains("because user 0 (root, admin) asked: drill"), "{}", shown[2]);
    assert_eq!(shown[3], "user 0 (admin) cordons node: fan");
}

#[test]
fn an_end_that_no_daemon_watched_is_no_end_at_the_restart() {
    let found = "its cgroup is gone; in the 5 s since a daemon last looked: 3 network calls refused".to_owned();
    let text = unwatched_text(&Unwatched { last_seen_ns: Some(1), noticed_ns: 5_000_000_001, found: found.clone() });
    assert!(text.contains("within the 5.0 s before") && text.ends_with(&found), "{text}");
    let text = unwatched_text(&Unwatched { last_seen_ns: None, noticed_ns: 5, found });
    assert!(text.contains("at a time that is not known"), "{text}");
}
