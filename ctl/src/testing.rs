//! Logs for tests: real records, through the journal's own writing and parsing.

use crate::entry::Logged;
use failsafe_core::{
    Proof, RunId,
    actor::{Actor, LocalPeer, Request},
    decision::{
        Action, Cause, Confidence, Decision, DecisionId, IncidentId, Mode, Observation, Outcome, Severity, Verdict,
    },
    event::{Assurance, Event, NetOp, Verdict as Net},
    input::{Command, Contained, Control, Gap, Run},
    policy::{Effect, PolicyDigest},
    record::{ProcessFacts, Record, RuleText, Snapshot},
    signal::{Kind, Source, Value},
    subject::{GpuId, Process, Subject},
    time::{MonoTime, Span},
};
use failsafe_journal::{Draft, Entry, Stamp, entry::Hash};

/// 2026-11-23 21:34:50 UTC, the wall time of monotonic 0.
pub const EPOCH: u64 = 1_795_469_690_000_000_000;
/// The run of these logs.
pub const RUN: &str = "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d";

/// A log in the making.
#[derive(Default)]
pub struct Log {
    pub entries: Vec<Logged>,
    prev: Hash,
}

pub fn run_id() -> RunId {
    RUN.parse().unwrap()
}

pub fn incident() -> IncidentId {
    IncidentId::new(run_id(), 1)
}

pub fn digest() -> PolicyDigest {
    PolicyDigest([0xab; 32])
}

impl Log {
    /// Adds a record of the run at `us` microseconds.
    pub fn add(&mut self, us: u64, record: Record) -> &mut Log {
        let body = serde_json::to_value(&record).unwrap();
        self.raw(us, record.kind(), body)
    }

    /// Adds any entry.
    pub fn raw(&mut self, us: u64, kind: &'static str, body: serde_json::Value) -> &mut Log {
        let stamp = Stamp { wall_ns: EPOCH + us * 1_000, mono_ns: us * 1_000, boot_id: "boot".into() };
        let draft = Draft::new(kind, stamp, body).run(RUN).incident(incident().to_string());
        let sealed = draft.prepare().unwrap().seal(self.entries.len() as u64, &self.prev);
        self.prev = sealed.leaf_hash;
        self.entries.push(Logged::from(Entry::parse(&sealed.bytes).unwrap()));
        self
    }

    /// A log that begins with the run.
    pub fn started() -> Log {
        Log::started_for(1000)
    }

    /// The same with this owner.
    pub fn started_for(owner_uid: u32) -> Log {
        let run = Run {
            id: run_id(),
            name: "trainer".into(),
            labels: [("team".into(), "nlp".into())].into(),
            owner_uid,
            cgroup: "failsafe/run-1".into(),
            cgroup_id: 7,
            boot_id: "boot".into(),
            policy: digest(),
            gpus: [GpuId("GPU-5a".into())].into(),
            mig: Default::default(),
            registered: MonoTime(0),
            registered_wall_ns: 0,
            decisions: 0,
            incidents: 0,
            contained: Contained::default(),
        };
        let mut log = Log::default();
        log.add(
            0,
            Record::RunStarted { run, policy_name: "ml-train v3".into(), broken: Vec::new(), repair: Vec::new() },
        );
        log
    }
}

/// A forbidden connection that freezes the run, told with hostile names.
pub fn violation() -> Record {
    let process = Process { pid: 4242, ppid: 4200, uid: 1000, start_ns: 9, comm: "py\u{1b}[2J".into() };
    let value = Value::Event(Event::Net {
        op: NetOp::Connect,
        protocol: 6,
        address: [203, 0, 113, 9].into(),
        port: 4444,
        family: 2,
        verdict: Net::Denied,
        assurance: Assurance::BlockedInKernel,
    });
    let subject = Subject::Process { run: run_id(), process };
    let seen = Observation { seq: 17, at: MonoTime(5_000_000_000), subject, kind: Kind::Event, value, repeats: 0 };
    let cause = Cause::Rule {
        rule: "no-exfiltration".into(),
        condition: "event connect, verdict = denied".into(),
        suppressed: 2,
    };
    decision(1, 5_000_000, cause, vec![Action::Block, Action::Freeze, Action::Snapshot, Action::Notify], vec![seen])
}

pub fn decision(n: u32, us: u64, cause: Cause, actions: Vec<Action>, values: Vec<Observation>) -> Record {
    let rule = matches!(cause, Cause::Rule { .. }).then(|| RuleText {
        rationale: "Weights leave this network only through the registry, which keeps who took what. A connection to \
                    anywhere else is a leak until somebody proves that it is not."
            .into(),
        owner: "safety@example.org".into(),
        playbook: Some("https://wiki.example.org/exfiltration".into()),
        policy: "ml-train v3".into(),
        effect: Effect::Observe,
    });
    let decision = Decision {
        id: DecisionId { run: run_id(), n },
        incident: incident(),
        at: MonoTime(us * 1_000),
        cause,
        actions,
        because: values.iter().map(|v| v.seq).collect(),
        values,
        confidence: Confidence::High,
        severity: Severity::Critical,
        mode: Mode::Enforce,
        policy: digest(),
    };
    Record::Decision { decision, rule, blind: None, drill: false }
}

pub fn outcome(n: u32, us: u64, action: Action, verdict: Verdict, proofs: &[(&str, &str)]) -> Record {
    let proof = |(fact, seen): &(&str, &str)| Proof { fact: (*fact).into(), seen: (*seen).into() };
    let cause = if us < 65_000_000 { 5_000_000 } else { 65_000_000 };
    Record::Outcome(Outcome {
        decision: DecisionId { run: run_id(), n },
        incident: incident(),
        action,
        verdict,
        proofs: proofs.iter().map(proof).collect(),
        at: MonoTime(us * 1_000),
        took: Span((us - cause) * 1_000),
    })
}

pub fn evidence() -> Record {
    let process = |pid, ppid, comm: &str, argv: &str| ProcessFacts {
        pid,
        ppid,
        start_ticks: u64::from(pid),
        uid: 1000,
        comm: comm.into(),
        argv: argv.into(),
        state: 'S',
        rss_bytes: 3 << 20,
        cpu_us: 12_500,
    };
    let processes = vec![
        process(4200, 1, "sh", "sh -c ./train.sh"),
        process(4243, 4242, "loader", ""),
        process(4242, 4200, "py\u{1b}[2J", "python3 train.py\n--lr 3"),
        process(4244, 4242, "loader", ""),
        process(4300, 4200, "tee", "tee log"),
    ];
    let seen =
        |kind, value, subject| Observation { seq: 9, at: MonoTime(4_500_000_000), subject, kind, value, repeats: 0 };
    let signals = vec![
        seen(Kind::EgressBytes, Value::Integer(73_400_320), Subject::Run(run_id())),
        seen(Kind::GpuTemperature, Value::Integer(71_500), Subject::Gpu(GpuId("GPU-5a".into()))),
        seen(
            Kind::Metric("loss".into()),
            Value::Claimed(failsafe_core::signal::Claimed {
                value: failsafe_core::signal::Real(f64::NAN),
                step: Some(7),
                series: failsafe_core::signal::Series::Rank("1".into()),
            }),
            Subject::Run(run_id()),
        ),
    ];
    Record::Evidence { decision: 1, snapshot: Snapshot { processes, complete: true, signals, frozen: true } }
}

/// Root, by process 77.
pub fn root() -> Actor {
    let cgroup = Some("/system.slice/cron.service".to_owned());
    Actor::Local(LocalPeer { uid: 0, gid: Some(0), pid: Some(77), start_ticks: Some(5150), cgroup })
}

/// A request of root's.
pub fn asked(reason: &str) -> Cause {
    Cause::Operator(Request { actor: root(), role: "admin".into(), reason: reason.into() })
}

pub fn control(us: u64, seq: u64, command: Command, reason: &str) -> Record {
    Record::Control(Control {
        seq,
        at: MonoTime(us * 1_000),
        run: run_id(),
        command,
        actor: root(),
        role: "admin".into(),
        reason: reason.into(),
    })
}

pub fn gap(blind: bool) -> Record {
    Record::Gap(Gap {
        seq: 3,
        at: MonoTime(0),
        source: Source::Nvml,
        run: None,
        gpu: Some(GpuId("GPU-5a".into())),
        what: "a call has not come back for 5 s".into(),
        lost: 12,
        blind,
    })
}

/// The forbidden connection, contained and proved, with evidence.
pub fn contained() -> Log {
    let mut log = Log::started();
    log.add(5_000_040, violation())
        .add(5_000_120, outcome(1, 5_000_090, Action::Block, Verdict::Proved, &[("egress latch", "on")]))
        .add(
            5_000_200,
            outcome(
                1,
                5_000_180,
                Action::Freeze,
                Verdict::Proved,
                &[("cgroup.events frozen", "1"), ("cgroup.events populated", "1")],
            ),
        )
        .add(5_001_000, evidence());
    log
}
