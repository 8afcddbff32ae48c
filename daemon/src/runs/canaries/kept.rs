//! A canary as it is kept: `canaries/NAME.state.json` with what was decided and counted, `canaries/DIGEST.policy.json` with the candidate.
//!
//! The state names the candidate's digest: another content is not used. The secret is in the state, which only the daemon's user reads.

use crate::{
    platform::clock,
    runs::disk::{Disk, Files},
};
use failsafe_core::{
    Actor, Policy, PolicyDigest, RunId,
    canary::{Arms, Side, Stage, Terms},
    discover::is_name,
    record::{CanaryEntry, Record},
    time::Span,
};
use failsafe_journal::storage::folder::replace_synced;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const STATE: &str = ".state.json";
const POLICY: &str = ".policy.json";

/// Who decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Who.
    pub actor: Actor,
    /// Why.
    pub reason: String,
    /// When, nanoseconds since the epoch.
    pub at_ns: i64,
}

/// A run that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    side: Side,
    contained: bool,
}

/// A canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The name of the policy.
    pub name: String,
    /// The name and when it began: in labels of runs.
    pub id: String,
    /// How it stands.
    pub stage: Stage,
    /// The policy in force of the name when it began.
    pub control: PolicyDigest,
    /// The new policy.
    pub candidate: PolicyDigest,
    /// Its name and version.
    pub candidate_name: String,
    /// On what terms.
    pub terms: Terms,
    /// By which runs are drawn.
    pub secret: [u8; 32],
    /// When it began, nanoseconds since the epoch.
    pub since_ns: i64,
    /// Who began it, and why.
    pub begun: Decided,
    /// Who promoted or withdrew it.
    pub decided: Option<Decided>,
    /// Of runs that have ended.
    ended: Arms,
    /// For how long the criteria of a promotion have held at a stretch.
    pub held: Span,
    live: BTreeMap<RunId, Running>,
}

/// What it takes to begin one.
#[derive(Debug)]
pub struct New {
    /// The name of the policy.
    pub name: String,
    /// Its digest.
    pub control: PolicyDigest,
    /// On what terms.
    pub terms: Terms,
    /// By which runs are drawn.
    pub secret: [u8; 32],
    /// Who begins it.
    pub begun: Decided,
}

impl Kept {
    /// One that begins.
    #[must_use]
    pub fn begin(New { name, control, terms, secret, begun }: New, policy: &Policy) -> Kept {
        Kept {
            id: format!("{name}@{}", begun.at_ns / 1_000_000),
            stage: Stage::Running,
            control,
            candidate: policy.digest(),
            candidate_name: format!("{} v{}", policy.name, policy.version),
            terms,
            secret,
            since_ns: begun.at_ns,
            begun,
            decided: None,
            ended: Arms::default(),
            held: Span(0),
            live: BTreeMap::new(),
            name,
        }
    }

    pub(super) fn decide(&mut self, stage: Stage, decided: Decided) {
        self.stage = stage;
        self.decided = Some(decided);
    }

    /// The counts of all its runs.
    #[must_use]
    pub fn arms(&self) -> Arms {
        let mut arms = self.ended;
        for Running { side, contained } in self.live.values() {
            let arm = arms.of(*side);
            arm.runs += 1;
            arm.contained += u64::from(*contained);
        }
        arms
    }

    /// Runs that live: with the candidate, and others.
    #[must_use]
    pub fn live(&self) -> (u64, u64) {
        let candidates = self.live.values().filter(|run| run.side == Side::Candidate).count() as u64;
        (candidates, self.live.len() as u64 - candidates)
    }

    /// Takes in how a run stands. Whether that is new.
    pub(super) fn saw(&mut self, run: RunId, side: Side, contained: bool, ended: bool) -> bool {
        let before = self.live.get(&run).copied();
        // What an earlier daemon saw stays.
        let now = Running { side, contained: contained || before.is_some_and(|before| before.contained) };
        if ended {
            self.live.remove(&run);
            self.add_ended(now);
            return true;
        }
        self.live.insert(run, now);
        before != Some(now)
    }

    fn add_ended(&mut self, Running { side, contained }: Running) {
        let arm = self.ended.of(side);
        arm.runs += 1;
        arm.ended += 1;
        arm.contained += u64::from(contained);
    }

    /// Counts runs as ended that do not live. Whether there was one.
    pub(super) fn retain(&mut self, lives: impl Fn(RunId) -> bool) -> bool {
        let gone: Vec<RunId> = self.live.keys().copied().filter(|run| !lives(*run)).collect();
        for run in gone.iter().filter_map(|run| self.live.remove(run)).collect::<Vec<_>>() {
            self.add_ended(run);
        }
        !gone.is_empty()
    }

    /// Adds time for which the criteria have held, or begins anew.
    pub(super) fn holds_for(&mut self, elapsed: Span) {
        self.held = match self.terms.holds(&self.arms()) {
            true => Span(self.held.0.saturating_add(elapsed.0)),
            false => Span(0),
        };
    }

    /// The digest of the secret: it is in the audit log, which others may read.
    fn draws_by(&self) -> String {
        let mut hash = Sha256::new_with_prefix(b"failsafe-canary-secret-v1\n");
        hash.update(self.secret);
        format!("sha256:{}", hex::encode(hash.finalize()))
    }

    /// Holds it against its entry in the audit log. It gives the candidate to no more runs than both have it. The text is what differs.
    ///
    /// # Errors
    /// It is another canary than that of the entry: it cannot be used.
    pub(super) fn borne_out_by(&mut self, entry: &CanaryEntry) -> Result<Option<String>, String> {
        let CanaryEntry { canary, stage, control, candidate, terms, draws_by, .. } = entry;
        let other_draw = draws_by.as_ref().is_some_and(|draws_by| *draws_by != self.draws_by());
        let differs = [
            ("the canary", self.id != *canary),
            ("the policy in force", self.control != *control),
            ("the candidate", self.candidate != *candidate),
            ("the terms", self.terms != *terms),
            ("the secret", other_draw),
        ];
        if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
            return Err(format!("{what} is another than in its last entry in the audit log"));
        }
        if self.stage == *stage || (self.stage.is_over() && stage.is_over()) {
            return Ok(None);
        }
        let text = format!("it is {} in its file, and {stage} by the audit log", self.stage);
        if !self.stage.is_over() {
            let stage = if stage.is_over() { *stage } else { Stage::Running };
            let counts = format!("{text}: {stage} counts");
            let decided = Decided { actor: Actor::Daemon, reason: counts.clone(), at_ns: clock::wall_ns() };
            self.stage = stage;
            self.decided = Some(decided).filter(|_| stage.is_over());
            return Ok(Some(counts));
        }
        Ok(Some(format!("{text}: {} counts", self.stage)))
    }

    /// Its entry in the audit log.
    #[must_use]
    pub fn record(&self) -> Record {
        let by = self.decided.as_ref().unwrap_or(&self.begun);
        Record::Canary {
            name: self.name.clone(),
            canary: self.id.clone(),
            stage: self.stage,
            control: self.control,
            candidate: self.candidate,
            candidate_name: self.candidate_name.clone(),
            terms: self.terms.clone(),
            seen: self.arms(),
            draws_by: Some(self.draws_by()),
            actor: by.actor.clone(),
            reason: by.reason.clone(),
        }
    }
}

fn state_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{STATE}"))
}

fn policy_path(folder: &Path, candidate: &PolicyDigest) -> PathBuf {
    folder.join(format!("{}{POLICY}", hex::encode(candidate.0)))
}

/// Writes one; `policy`: also its candidate, which is on disk before the state that names it.
pub(super) fn write(folder: &Path, kept: &Kept, policy: Option<&Policy>) -> Result<(), String> {
    let failed = |path: &Path, error: io::Error| format!("cannot write {}: {error}", path.display());
    let replace = |path: PathBuf, bytes: Result<Vec<u8>, serde_json::Error>| {
        let written = bytes.map_err(io::Error::from).and_then(|bytes| replace_synced(&path, &bytes, 0o600));
        written.map_err(|error| failed(&path, error))
    };
    if let Some(policy) = policy {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(folder, error)),
            _ => {}
        }
        replace(policy_path(folder, &kept.candidate), serde_json::to_vec(policy))?;
    }
    replace(state_path(folder, &kept.name), serde_json::to_vec(kept))
}

/// Removes what is kept of a canary that is over, and candidates of none.
pub(super) fn tidy(folder: &Path, over: Option<&String>, candidates: &BTreeSet<PolicyDigest>) {
    let used: BTreeSet<PathBuf> = candidates.iter().map(|candidate| policy_path(folder, candidate)).collect();
    let is_policy = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(POLICY));
    let files = Files.list(folder).unwrap_or_default().into_iter();
    let unused = files.filter(|path| is_policy(path) && !used.contains(path));
    for path in over.map(|name| state_path(folder, name)).into_iter().chain(unused) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "what is kept of a canary that is over cannot be removed");
        }
    }
}

/// Reads all of them.
#[expect(clippy::type_complexity, reason = "a name with what came of it")]
pub(super) fn read_all(folder: &Path) -> Vec<(String, Result<(Kept, Policy), String>)> {
    let files = match Files.list(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![("*".to_owned(), Err(format!("{}: {error}", folder.display())))],
    };
    let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.strip_suffix(STATE)?.to_owned());
    let mut names: Vec<String> = files.iter().filter_map(name).filter(|name| is_name(name)).collect();
    names.sort_unstable();
    let read = |(at, name): (usize, String)| {
        let kept = match at < super::MOST {
            true => read(folder, &name),
            false => Err(format!("the folder has more than {} canaries", super::MOST)),
        };
        (name, kept)
    };
    names.into_iter().enumerate().map(read).collect()
}

fn read(folder: &Path, name: &str) -> Result<(Kept, Policy), String> {
    let bytes = |path: &Path| Files.read(path).map_err(|error| format!("{}: {error}", path.display()));
    let state = state_path(folder, name);
    let wrong = |why: &str| format!("{}: {why}", state.display());
    let kept: Kept = serde_json::from_slice(&bytes(&state)?).map_err(|error| wrong(&error.to_string()))?;
    if kept.name != name {
        return Err(wrong("it is of another name"));
    }
    if let Err(why) = kept.terms.check() {
        return Err(wrong(&why.to_string()));
    }
    let path = policy_path(folder, &kept.candidate);
    let policy: Policy =
        serde_json::from_slice(&bytes(&path)?).map_err(|error| format!("{}: {error}", path.display()))?;
    if policy.digest() != kept.candidate {
        return Err(format!("{}: its content has another digest than the canary's candidate", path.display()));
    }
    Ok((kept, policy))
}
