//! What the audit log keeps: one [`Record`] a log entry, as JSON. The reader (`failsafectl`) needs no daemon to read it.

pub use crate::egress::Totals;
use crate::{
    actor::{Actor, or_uid},
    canary::{Seen, Stage, Terms},
    decision::{Decision, IncidentId, Mode, Observation, Outcome, Proof, Verdict},
    drill::Drill,
    egress::Account,
    event::{DriftSince, FactorClass},
    health::{Change, Order},
    input::{Command, Control, Gap, Run},
    policy::{Effect, PolicyDigest},
    shadow::Summary,
    subject::{GpuId, RunId},
    time::MonoTime,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One process of a run, as a snapshot keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Process id.
    pub pid: u32,
    /// Parent's.
    pub ppid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22).
    pub start_ticks: u64,
    /// Real user id.
    pub uid: u32,
    /// `comm`.
    pub comm: String,
    /// The head of argv.
    pub argv: String,
    /// State letter of `/proc/PID/stat`.
    pub state: char,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
}

/// The state of a run at an intervention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its processes.
    pub processes: Vec<ProcessFacts>,
    /// False when the time budget cut the list.
    pub complete: bool,
    /// The last value of every signal of the run and of its GPUs.
    pub signals: Vec<Observation>,
    /// Whether the processes were already frozen when the list was taken.
    pub frozen: bool,
}

/// The rule behind a decision, as the policy that the run was pinned to has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleText {
    /// Why the rule exists.
    pub rationale: String,
    /// Who answers for it.
    pub owner: String,
    /// What to do next.
    pub playbook: Option<String>,
    /// Name and version of the policy.
    pub policy: String,
    /// What the kernel was to do with the call; `observe` in entries of earlier versions.
    #[serde(default, skip_serializing_if = "Effect::is_observe")]
    pub effect: Effect,
}

/// What became of a recording, as it stood when it was closed. `failsafectl replay` compares the file with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingSeal {
    /// Its number: how many daemons had looked after the run before the one that wrote it.
    pub part: u32,
    /// Frames, the end marker not counted.
    pub frames: u64,
    /// The hash of its last frame in hex, which covers all frames and the header; none where there is no recording.
    pub hash: Option<String>,
    /// Whether it has everything from its beginning to its end.
    pub complete: bool,
    /// Why it is not complete, or not on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Events that matched a rule and led to no decision, because the rule's cooldown lasted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    /// The rule's id.
    pub rule: String,
    /// How many since its last decision.
    pub events: u64,
}

/// A factor of a run's fingerprint with two known values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactorChange {
    /// The factor.
    pub path: String,
    /// The value before; none: it was known to be absent.
    pub old: Option<String>,
    /// The value now; none: it is known to be absent.
    pub new: Option<String>,
    /// What the difference can change.
    pub class: FactorClass,
}

/// The end of a run that no daemon watched: it lies between two times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwatched {
    /// When the run was last seen alive, nanoseconds since the epoch; none where nothing shows it.
    pub last_seen_ns: Option<i64>,
    /// When a daemon noticed the end, nanoseconds since the epoch.
    pub noticed_ns: i64,
    /// What shows the end, and what the kernel counted since a daemon last looked, in words.
    pub found: String,
}

impl Unwatched {
    /// What is found of a run of an earlier boot.
    pub const EARLIER_BOOT: &'static str = "it was of an earlier boot";

    /// Whether the end of the boot ended the run.
    pub fn is_reboot(&self) -> bool {
        self.found.starts_with(Self::EARLIER_BOOT)
    }
}

/// Why a GPU that was not declared is a run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuBy {
    /// A process of the run uses it, as the driver says.
    Process,
    /// A process of the run has its device file open.
    Open,
}

impl std::fmt::Display for GpuBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GpuBy::Process => "used by",
            GpuBy::Open => "opened by",
        })
    }
}

/// A GPU that was not declared, and became known to be a run's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundGpu {
    /// The GPU.
    pub gpu: GpuId,
    /// What shows it.
    pub by: GpuBy,
    /// The process.
    pub pid: u32,
}

/// Entries that were not written because the budget of a user is spent, summed up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limited {
    /// The user.
    pub uid: u32,
    /// The run that they were about.
    pub run: Option<RunId>,
    /// How many.
    pub entries: u64,
    /// How long they were, in bytes.
    pub bytes: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// The numbers of the first 1,024 decisions among them.
    pub decisions: Vec<u32>,
    /// How many of them are beginnings of discovered runs. Each is written as an entry of its own as well if somebody or a rule intervenes
    /// on its run later.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beginnings: u64,
    /// The largest number of a decision among them; 0: none.
    pub last_decision: u32,
    /// The largest number of an incident among them.
    pub last_incident: u32,
    /// SHA-256 over their bodies, each followed by a line end.
    pub sha256: String,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record {
    /// The daemon started.
    DaemonStarted {
        /// Its version.
        version: String,
        /// The kernel's release.
        kernel: String,
        /// Sensors that are blind from the start, with the reason, and what was found amiss with the log. What NVML says
        /// comes later, as [`Record::Nvml`]: the runs are watched again before it is waited for.
        blind: Vec<String>,
    },
    /// NVML's first word after the daemon's start.
    Nvml {
        /// Driver and library, `simulated (...)` where it is a stand-in; none while it is blind.
        seen: Option<String>,
        /// Why it is blind; none while it sees.
        blind: Option<String>,
    },
    /// The daemon stopped on purpose.
    DaemonStopped,
    /// From here on what is decided is carried out, or only recorded, on the whole node or in the runs of one rule of discovery.
    Mode {
        /// `enforce` or `observe`.
        mode: Mode,
        /// The rule of discovery; none: the node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// When it ends by itself, nanoseconds since the epoch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ns: Option<i64>,
        /// Why: somebody's words, or what the daemon goes by.
        reason: String,
        /// Who asked; the daemon, where it is the configuration or the end of a time.
        actor: Actor,
        /// Live runs of which the mode changed.
        runs: u64,
        /// Those that could not be changed, with the reasons.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        failed: Vec<String>,
        /// It was recorded before the first run changed; another record has what came of it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        begins: bool,
    },
    /// A run was registered.
    RunStarted {
        /// The run.
        run: Run,
        /// Name and version of its policy.
        policy_name: String,
        /// Rules and sections whose refusals this kernel does not keep, each with the hook that is missing. The policy says that
        /// it may start all the same.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        broken: Vec<String>,
        /// What spoke against its GPUs or the node when it was started for repair; empty for every other run.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        repair: Vec<String>,
    },
    /// A run that lived over the daemon's restart was taken up again.
    RunAdopted {
        /// The run.
        run: Run,
        /// What was found, in words.
        found: String,
        /// The number of the recording that begins; 0 in entries of earlier versions.
        #[serde(default)]
        part: u32,
        /// Of a run that somebody else thawed meanwhile: until when it is known to have been frozen, `CLOCK_MONOTONIC` ns; 0: not
        /// known. From then to this entry it does not count as frozen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frozen_until_ns: Option<u64>,
    },
    /// A run ended.
    RunEnded {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// Its last recording; none where no daemon watched the end, and in entries of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recording: Option<RecordingSeal>,
        /// Events within the cooldown of their rule after its last decision; no decision counts them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        suppressed: Vec<Suppressed>,
        /// Between which times it ended, where no daemon watched the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unwatched: Option<Unwatched>,
        /// For how long it was frozen in its whole life, ns; none where it ended frozen and no daemon watched the end, and in entries of
        /// earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frozen_ns: Option<u64>,
    },
    /// It became known which GPUs are a run's, or which are not.
    RunGpus {
        /// The run.
        run: RunId,
        /// Those that are its from here on, or that are found by something else than before.
        found: Vec<FoundGpu>,
        /// Those that are not its any more. A process had them open; the file is closed, another run uses them, or the run uses others.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<GpuId>,
    },
    /// What the kernel counted in the whole life of a run, read after its end.
    RunTotals {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// The counters.
        totals: Totals,
    },
    /// A run was started as an ended one was.
    Rerun {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// The run that it repeats.
        of: RunId,
        /// The checkpoint that it begins with; empty: none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        checkpoint: String,
        /// What differs.
        differences: Vec<FactorChange>,
        /// What was not known of the run that it repeats.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unknown: Vec<String>,
        /// Why that was accepted; none: nothing had to be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted: Option<String>,
        /// Who started it.
        actor: Actor,
    },
    /// What a run sent, read after its end.
    Egress {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// The account.
        account: Account,
    },
    /// A signed statement about a run was stored, or could not be made.
    Statement {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// Of which moment it is.
        at: At,
        /// The incident, where it is of one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incident: Option<IncidentId>,
        /// `sha256:HEX` of the stored envelope; none: there is no statement.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// Size of the envelope.
        bytes: u64,
        /// Why there is none, or what is missing in it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// The daemon stopped while the run lives, and closed its recording. The next daemon begins another.
    RecordingClosed {
        /// The run.
        run: RunId,
        /// Its recording.
        recording: RecordingSeal,
    },
    /// A policy was refused for a run.
    PolicyRefused {
        /// The policy.
        policy: PolicyDigest,
        /// Why.
        why: String,
        /// Who asked; none in the oldest entries.
        #[serde(default, alias = "uid", deserialize_with = "or_uid", skip_serializing_if = "Option::is_none")]
        actor: Option<Actor>,
    },
    /// From here on a policy is judged beside the one in force, without effect; or it was.
    Shadow {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// The policy that is judged.
        policy: PolicyDigest,
        /// Its name and version.
        policy_name: String,
        /// Who asked; the daemon, where it is a rule of discovery.
        actor: Actor,
        /// Absent at its beginning; then what it found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<Summary>,
    },
    /// The canary of a named policy began, or was promoted or withdrawn.
    Canary {
        /// The name of the policy.
        name: String,
        /// The canary: in the label of its runs.
        canary: String,
        /// How it stands from here on.
        stage: Stage,
        /// The policy in force when it began.
        control: PolicyDigest,
        /// The new policy.
        candidate: PolicyDigest,
        /// Its name and version.
        candidate_name: String,
        /// On what terms.
        terms: Terms,
        /// What was seen.
        seen: Seen,
        /// Who; the daemon, where the criteria decided.
        actor: Actor,
        /// Why: the criteria with their values, where they decided.
        reason: String,
    },
    /// An operator's command was accepted.
    Control(Control),
    /// What came of an operator's command on a guarded run. No decision is made about such a run, so there is no outcome of one.
    ControlOutcome {
        /// The command.
        command: Command,
        /// Who asked.
        actor: Actor,
        /// Proved, partial with what is missing, or failed with the cause.
        verdict: Verdict,
        /// What was read back.
        proofs: Vec<Proof>,
        /// When, `CLOCK_MONOTONIC`.
        at: MonoTime,
    },
    /// A decision was made.
    Decision {
        /// The decision.
        decision: Decision,
        /// The rule's text, where a rule made it.
        rule: Option<RuleText>,
        /// What is not seen, and which rules do not judge for that reason, where blindness made it; none in entries of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blind: Option<String>,
        /// It is of the run of a drill, which is stopped on purpose.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drill: bool,
    },
    /// An action's outcome was read back.
    Outcome(Outcome),
    /// Evidence of a decision.
    Evidence {
        /// The decision's number.
        decision: u32,
        /// The state.
        snapshot: Snapshot,
    },
    /// The health of the node or of a GPU changed.
    Health(Change),
    /// An order about health was accepted.
    Order(Order),
    /// An operator had a GPU reset.
    GpuReset {
        /// Which.
        gpu: GpuId,
        /// Who, in words.
        by: String,
        /// Who asked; none in entries of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<Actor>,
        /// Why.
        why: String,
        /// Absent before the tool is called; then whether it did it.
        done: Option<bool>,
        /// What it said.
        detail: String,
    },
    /// Statements are signed by a new key from here on.
    KeyRotated {
        /// The id of the new key.
        keyid: String,
        /// The id of the key that it replaces.
        retired: String,
        /// Who, in words.
        by: String,
        /// Who asked.
        actor: Actor,
        /// Why.
        why: String,
    },
    /// Factors of a run's fingerprint changed, or differ from those of the run that it continues.
    Drift {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// What the values are compared with.
        since: DriftSince,
        /// The run that it continues, where its values are compared.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        predecessor: Option<RunId>,
        /// Each factor with both values.
        changes: Vec<FactorChange>,
        /// More changes since the last such entry, which are not listed and led to no event.
        #[serde(default)]
        left_out: u64,
    },
    /// What the owner of a run claims that it computes with. It replaces what was claimed before.
    Manifest {
        /// Its canonical JSON text, redacted.
        manifest: String,
        /// Who claims it.
        actor: Actor,
    },
    /// The owner of a run claims that it wrote a checkpoint.
    Checkpoint {
        /// The checkpoint.
        checkpoint: Checkpoint,
        /// Who claims it.
        actor: Actor,
    },
    /// A drill was done: a run was started, and stopped as a proof that the node can do so.
    Drill(Drill),
    /// A sensor or the log itself was blind, or sees again.
    Gap(Gap),
    /// What was kept of ended runs, with their recordings, was removed.
    RunsRemoved {
        /// The runs.
        runs: Vec<RunId>,
        /// Size of what was removed, in bytes.
        bytes: u64,
        /// Why.
        why: String,
    },
    /// Entries were not written.
    Limited(Limited),
}

/// A moment in the life of a run of which a statement is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// Its first programs were loaded.
    Start,
    /// An incident was opened.
    Incident,
    /// It has ended.
    End,
}

impl At {
    /// The name in statements and answers.
    pub fn name(self) -> &'static str {
        match self {
            At::Start => "start",
            At::Incident => "incident",
            At::End => "end",
        }
    }
}

/// A checkpoint of a run, as its owner announces it. The daemon does not open the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Where it is.
    pub path: String,
    /// The step of training; none where it was not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Whether it is known to be good.
    #[serde(default)]
    pub good: bool,
    /// `sha256:HEX` of its content, made by whoever announces it.
    pub digest: String,
    /// Size of its content, in bytes.
    pub bytes: u64,
}

impl Record {
    /// All that [`Record::kind`] returns.
    pub const KINDS: [&'static str; 14] = [
        "decision",
        "outcome",
        "evidence",
        "control",
        "run",
        "policy",
        "gap",
        "health",
        "order",
        "daemon",
        "drift",
        "manifest",
        "statement",
        "drill",
    ];

    /// The entry's kind: what `failsafectl events` shows and filters by.
    pub fn kind(&self) -> &'static str {
        match self {
            Record::DaemonStarted { .. } | Record::Nvml { .. } | Record::DaemonStopped | Record::RunsRemoved { .. } => {
                "daemon"
            }
            Record::RunStarted { .. }
            | Record::RunAdopted { .. }
            | Record::RunEnded { .. }
            | Record::RunTotals { .. }
            | Record::RunGpus { .. }
            | Record::Egress { .. }
            | Record::Rerun { .. }
            | Record::RecordingClosed { .. } => "run",
            Record::Statement { .. } => "statement",
            Record::Drill(_) => "drill",
            Record::PolicyRefused { .. } | Record::Shadow { .. } | Record::Canary { .. } => "policy",
            Record::Control(_) | Record::ControlOutcome { .. } => "control",
            Record::Decision { .. } => "decision",
            Record::Outcome(_) => "outcome",
            Record::Evidence { .. } => "evidence",
            Record::Health(_) => "health",
            Record::Order(_) | Record::GpuReset { .. } | Record::KeyRotated { .. } | Record::Mode { .. } => "order",
            Record::Drift { .. } => "drift",
            Record::Manifest { .. } | Record::Checkpoint { .. } => "manifest",
            Record::Gap(_) | Record::Limited(_) => "gap",
        }
    }
}
