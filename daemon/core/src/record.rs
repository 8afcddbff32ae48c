//! What the audit log keeps: one [`Record`] a log entry, as JSON. The reader (`failsafectl`) needs no daemon to read it.

mod compute;
mod end;
mod evidence;
mod gpus;
mod kind;
mod limited;
mod orders;
mod own;
mod owner;

pub use crate::egress::Totals;
use crate::{
    actor::{Actor, or_uid},
    canary::{Arms, Stage, Terms},
    decision::{Decision, IncidentId, Mode, Outcome, Proof, Verdict},
    drill::Drill,
    egress::Account,
    event::DriftSince,
    health::{Change, Order},
    input::{Command, Control, Gap, Run},
    policy::PolicyDigest,
    shadow::Summary,
    subject::{GpuId, RunId},
    time::MonoTime,
};
pub use compute::{At, Checkpoint, FactorChange};
pub use end::{RecordingSeal, Suppressed, Unwatched};
pub use evidence::{ProcessFacts, RuleText, Snapshot};
pub use gpus::{FoundGpu, GpuBy};
pub use limited::Limited;
pub use orders::{BornOut, CanaryEntry, ObserveEntry, Orders};
pub use owner::OwnerBy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
        /// Sensors that are blind from the start, with the reason, and what was found amiss with the log. What NVML
        /// reports comes later, as [`Record::Nvml`]: the runs are watched again before it is waited for.
        blind: Vec<String>,
        /// The orders that were in force by the entries before this one. None in entries of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        orders: Option<Orders>,
    },
    /// NVML's first answer after the daemon's start.
    Nvml {
        /// Driver and library, `simulated (...)` where it is a stand-in; none while it is blind.
        seen: Option<String>,
        /// Why it is blind; none while it sees.
        blind: Option<String>,
    },
    /// The daemon stopped on purpose.
    DaemonStopped,
    /// These files of the state folder are there. The next daemon reports one that it does not find.
    StateFiles {
        /// Their names in the state folder.
        names: BTreeSet<String>,
    },
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
        /// Rules and sections that this kernel does not enforce, each with the hook that is missing. The policy allows the start
        /// all the same.
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
    /// With what a run was started is stored from here on, for whoever starts it again.
    StartKept {
        /// The run.
        run: RunId,
        /// Its name.
        name: String,
        /// `sha256:HEX` of the stored file.
        digest: String,
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
    /// The owner of a run became known after its start. The run was registered without an owner.
    RunOwner {
        /// The run.
        run: RunId,
        /// Its owner from here on.
        owner_uid: u32,
        /// By what the owner was found.
        by: OwnerBy,
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
        seen: Arms,
        /// `sha256:HEX` of the secret by which runs are drawn. None in entries of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        draws_by: Option<String>,
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
        /// The rule's text, where a rule made it; what the policy has about it, where failsafed made it of itself. None in entries of
        /// earlier versions about the latter.
        rule: Option<RuleText>,
        /// The cause in words, where the decision does not have all of it: what is not seen, and which rules do not judge for that
        /// reason; or how a restart differs. None in entries of earlier versions.
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
        /// Its output.
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
