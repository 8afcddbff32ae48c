//! A run, its policy, its log and what the daemon would say of it.

use failsafe_core::{
    RunId,
    actor::{Actor, LocalPeer, Request},
    decision::{Action, Cause, Confidence, Decision, DecisionId, IncidentId, Mode, Outcome, Severity, Verdict},
    input::{Contained, Run},
    policy::PolicyDigest,
    record::Record,
    time::{MonoTime, Span},
};
use failsafe_journal::{AuditLog, Draft, Stamp, storage::FileStorage};
use failsafe_proto::v1 as pb;
use serde_json::Value;
use std::path::Path;

pub(crate) const RUN: &str = "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d";
pub(crate) const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

pub(crate) fn run_id() -> RunId {
    RUN.parse().unwrap()
}

pub(crate) fn pb_run() -> pb::Run {
    pb::Run {
        id: RUN.into(),
        name: "trainer\u{1b}[2J".into(),
        policy_name: "p".into(),
        policy_digest: "sha256:ab".into(),
        state: pb::RunState::Frozen.into(),
        registered_ns: 1,
        processes: 3,
        ..Default::default()
    }
}

pub(crate) fn core_run(policy: PolicyDigest) -> Run {
    Run {
        id: run_id(),
        name: "trainer".into(),
        labels: Default::default(),
        owner_uid: 1000,
        cgroup: "c".into(),
        cgroup_id: 7,
        boot_id: "b".into(),
        policy,
        gpus: Default::default(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Contained::default(),
    }
}

/// A log on disk: a run, an operator's freeze, its outcome. Returns the entries as the daemon would stream them.
pub(crate) fn write_log(state_dir: &Path) -> Vec<pb::Record> {
    let dir = state_dir.join("audit");
    let incident = IncidentId::new(run_id(), 1);
    let id = DecisionId { run: run_id(), n: 1 };
    let decision = Decision {
        id,
        incident,
        at: MonoTime(1_000),
        cause: Cause::Operator(Request {
            actor: Actor::Local(LocalPeer {
                uid: 0,
                gid: Some(0),
                pid: Some(7),
                start_ticks: Some(9),
                cgroup: Some("/".into()),
            }),
            role: "admin".into(),
            reason: "looks wrong".into(),
        }),
        actions: vec![Action::Freeze],
        because: vec![1],
        values: vec![],
        confidence: Confidence::High,
        severity: Severity::Warning,
        mode: Mode::Enforce,
        policy: PolicyDigest([1; 32]),
    };
    let outcome = Outcome {
        decision: id,
        incident,
        action: Action::Freeze,
        verdict: Verdict::Proved,
        proofs: vec![],
        at: MonoTime(2_000),
        took: Span(1_000),
    };
    let stamp = Stamp { wall_ns: 1_795_469_690_000_000_000, mono_ns: 0, boot_id: "b".into() };
    let (mut log, _) = AuditLog::open(FileStorage::open(&dir).unwrap(), &stamp).unwrap();
    let records = [
        (
            None,
            Record::RunStarted {
                run: core_run(PolicyDigest([1; 32])),
                policy_name: "p v1".into(),
                broken: Vec::new(),
                repair: Vec::new(),
            },
        ),
        (Some(incident), Record::Decision { decision, rule: None, blind: None, drill: false }),
        (Some(incident), Record::Outcome(outcome)),
    ];
    for (incident, record) in records {
        let mut draft = Draft::new(record.kind(), stamp.clone(), serde_json::to_value(&record).unwrap()).run(RUN);
        draft.incident = incident.map(|i| i.to_string());
        log.append(&draft).unwrap();
    }
    let as_pb = |s: failsafe_journal::Sealed| pb::Record {
        index: s.index,
        kind: "x".into(),
        run_id: RUN.into(),
        incident: if s.index > 0 { incident.to_string() } else { String::new() },
        entry: s.bytes.to_vec(),
        ..Default::default()
    };
    log.commit().unwrap().into_iter().map(as_pb).collect()
}

pub(crate) fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn core_like() -> pb::Run {
    pb::Run { name: "trainer".into(), ..pb_run() }
}
