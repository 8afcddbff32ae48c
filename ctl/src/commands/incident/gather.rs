//! What goes into a file, from the state folder and, for recordings and the statement, from the daemon.
//!
//! Recordings are read before the log: so the log has an entry of each decision and outcome in them.

use super::{
    super::{
        Place, export,
        replay::found::{RunRecordings, Section},
    },
    check::{belongs, digest_of, recordings_of, stated, statement_nonce},
};
use crate::{
    bundle::{MAX_ENTRIES, MAX_IN_MEMORY, Name},
    client::Client,
    entry::{self, Logged},
    exit::{Exit, Fail},
    incident::Incident,
};
use failsafe_core::{Policy, PolicyDigest, decision::IncidentId, record::At};
use failsafe_journal::{
    Filter,
    storage::{ReadAt, bounded},
    tree::{
        prove::{ProveError, prove_all},
        signed::{CHECKPOINT_FILE, KEYS_FILE, SignedTree},
    },
};
use failsafe_proto::v1 as pb;
use failsafe_tlog::{Checkpoint, ProofFile};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

/// Most bytes of entries, so that there is room for the other parts.
const MOST_BYTES: u64 = MAX_IN_MEMORY / 2;
/// Kinds of entries that can belong to an incident or to its run.
const KINDS: [&str; 7] = ["run", "decision", "outcome", "evidence", "control", "gap", "statement"];

/// Parts, and what is missing with the reason.
#[derive(Default)]
pub(super) struct Gathered {
    pub parts: BTreeMap<Name, Box<dyn ReadAt>>,
    pub missing: BTreeMap<Name, String>,
}

/// The content of a small part.
pub(super) struct Bytes(pub Vec<u8>);

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|from| self.0.get(from..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// The entries of the log that belong to an incident, and the snapshots of it that there is no room for.
///
/// # Errors
/// The log cannot be read, has no such incident, or has more entries of it than a file can hold.
pub(super) fn entries(place: &Place<'_>, id: IncidentId) -> Result<(Vec<Logged>, Vec<u64>), Fail> {
    let log = entry::log_file(place.state_dir);
    let advice = "the state folder is root's: run the command as root, or name a copy with --state-dir";
    if let Err(error) = fs::File::open(&log)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return Err(Fail::new(Exit::Denied, format!("cannot read {}: {error}", log.display())).advise(advice));
    }
    let load = |filter| entry::load(&log, filter).map_err(|fail| fail.advise(advice));
    let of_incident = load(Filter { incident: Some(id.to_string()), ..Filter::default() })?;
    let run = of_incident.iter().find_map(|entry| entry.run.clone());
    let run = run.ok_or_else(|| super::super::events::no_incident(&id.to_string()))?;
    let kinds = KINDS.map(str::to_owned).to_vec();
    let all = entry::in_order(load(Filter { run: Some(run), kinds, ..Filter::default() })?);
    let incident = Incident::gather(id, &all).ok_or_else(|| super::super::events::no_incident(&id.to_string()))?;
    let wanted: BTreeSet<u64> = all.iter().filter(|entry| belongs(entry, &incident)).map(|entry| entry.index).collect();
    let entries = all.into_iter().filter(|entry| wanted.contains(&entry.index)).collect();
    within_limits(id, entries, MAX_ENTRIES, MOST_BYTES)
}

/// Leaves out the snapshots of the incident if there are too many entries or bytes.
pub(super) fn within_limits(
    id: IncidentId,
    entries: Vec<Logged>,
    most: usize,
    most_bytes: u64,
) -> Result<(Vec<Logged>, Vec<u64>), Fail> {
    let fits = |entries: &[Logged]| {
        let bytes: u64 = entries.iter().map(|entry| entry.bytes.len() as u64).sum();
        entries.len() <= most && bytes <= most_bytes
    };
    if fits(&entries) {
        return Ok((entries, Vec::new()));
    }
    let (snapshots, others): (Vec<Logged>, Vec<Logged>) =
        entries.into_iter().partition(|entry| entry.kind == "evidence");
    if fits(&others) {
        return Ok((others, snapshots.iter().map(|entry| entry.index).collect()));
    }
    let message = format!(
        "incident {id} has {} entries beside its snapshots; a file can have {most} entries of {most_bytes} bytes together",
        others.len()
    );
    Err(Fail::new(Exit::Error, message).advise("`failsafectl events --incident` shows them, `log prove` proves each"))
}

impl Gathered {
    /// Adds a small part.
    pub fn add(&mut self, name: Name, bytes: Vec<u8>) {
        self.missing.remove(&name);
        self.parts.insert(name, Box::new(Bytes(bytes)));
    }

    fn lacks(&mut self, name: Name, why: impl Into<String>) {
        self.missing.insert(name, why.into());
    }

    /// Adds a file of the state folder.
    pub fn file(&mut self, name: Name, path: &Path) {
        match bounded::read(path, bounded::LARGEST) {
            Ok(bytes) if bytes.len() as u64 <= name.limit() => self.add(name, bytes),
            Ok(bytes) => self.lacks(name, format!("it has {} bytes; the limit is {}", bytes.len(), name.limit())),
            Err(error) => self.lacks(name, format!("{} cannot be read: {error}", path.display())),
        }
    }

    /// Adds the recordings that the incident is in.
    pub fn recordings(&mut self, found: Result<RunRecordings, Fail>, incident: &Incident<'_>, entries: &[Logged]) {
        let wanted: BTreeSet<u32> = recordings_of(incident, entries);
        let wanted = wanted.into_iter().map(|number| (number, Name::Recording(number)));
        let found = match found {
            Ok(found) => found,
            Err(fail) => {
                wanted.for_each(|(_, name)| self.lacks(name, fail.message.clone()));
                return;
            }
        };
        for (number, name) in wanted {
            // A run with one recording has number 0, and the file is the recording.
            let source = found.sources.iter().find(|source| source.number.unwrap_or(0) == number);
            let lost = || found.lost.iter().find(|lost| lost.number == Some(number)).map(|lost| lost.why.clone());
            match source.map(|source| source.bytes.clone()) {
                Some(bytes) if bytes.len().is_ok_and(|len| len <= name.limit()) => {
                    self.parts.insert(name, Box::new(bytes));
                }
                Some(_) => self.lacks(name, format!("it has more than {} bytes", name.limit())),
                None => self.lacks(name, lost().unwrap_or_else(|| "there is no such file".to_owned())),
            }
        }
    }

    /// Adds the policy, from its own file or from the header of a recording.
    pub fn policy(&mut self, place: &Place<'_>, digest: PolicyDigest, recordings: &[Section]) {
        let file = place.state_dir.join("policies").join(format!("{}.json", hex::encode(digest.0)));
        let is_it = |content: &Vec<u8>| PolicyDigest::of_content(content) == digest;
        let of_header = |section: &Section| -> Option<Vec<u8>> {
            let reader = failsafe_journal::RecordingReader::new(section.clone()).ok()?;
            let policy: Policy = serde_json::from_value(reader.header().get("policy")?.clone()).ok()?;
            serde_json::to_vec(&policy).ok()
        };
        let kept = bounded::read(&file, bounded::LARGEST).ok().filter(is_it);
        match kept.or_else(|| recordings.iter().filter_map(of_header).find(is_it)) {
            Some(content) => self.add(Name::Policy, content),
            None => self.lacks(Name::Policy, format!("neither {} nor a recording has it", file.display())),
        }
    }

    /// Adds the checkpoint, the entries, and a proof of each that the checkpoint covers.
    ///
    /// # Errors
    /// The log is not the one of the checkpoint.
    pub fn log(&mut self, place: &Place<'_>, note: Option<Vec<u8>>, entries: &[Logged]) -> Result<(), Fail> {
        for entry in entries {
            self.add(Name::Entry(entry.index), entry.bytes.to_vec());
        }
        let Some(note) = note else {
            let path = place.state_dir.join(CHECKPOINT_FILE);
            self.lacks(Name::Checkpoint, format!("{} cannot be read", path.display()));
            return Ok(());
        };
        let failed = |why: &dyn std::error::Error| {
            Fail::because("cannot prove the entries of the incident", why)
                .advise("`failsafectl log verify` says whether the log is intact")
        };
        let checkpoint = Checkpoint::unverified(&note).map_err(|error| failed(&error))?;
        let covered = covered(&checkpoint);
        let indices: Vec<u64> = entries.iter().map(|entry| entry.index).filter(|index| *index < covered).collect();
        let log = entry::log_file(place.state_dir);
        let dir = log.parent().unwrap_or(place.state_dir);
        let included = match prove_all(dir, &indices, checkpoint) {
            Ok(included) => included,
            Err(why @ (ProveError::BeforeTree { .. } | ProveError::Removed { .. })) => {
                // They are older than the tree: they stay without a proof.
                self.add(Name::Checkpoint, note);
                indices.iter().for_each(|index| self.lacks(Name::Proof(*index), why.to_string()));
                return Ok(());
            }
            Err(error) => return Err(failed(&error)),
        };
        for (index, included) in indices.iter().zip(included) {
            let proof =
                ProofFile { extra: None, index: included.leaf, hashes: included.hashes, checkpoint: note.clone() };
            self.add(Name::Proof(*index), proof.encode());
        }
        for entry in entries.iter().filter(|entry| entry.index >= covered) {
            self.lacks(Name::Proof(entry.index), format!("the checkpoint covers {covered} entries of the log"));
        }
        self.add(Name::Checkpoint, note);
        Ok(())
    }

    /// Notes the snapshots that there was no room for.
    pub fn left_out(&mut self, entries: &[u64]) {
        for index in entries {
            self.lacks(Name::Entry(*index), "the entries of the incident are too large: snapshots are left out");
        }
    }

    /// Adds the public keys of the node, as it names them.
    pub fn keys(&mut self, place: &Place<'_>) {
        self.file(Name::Keys, &place.state_dir.join(KEYS_FILE));
    }

    /// Adds the statement, or why there is none.
    pub fn statement(&mut self, statement: &Result<Vec<u8>, String>) {
        match statement {
            Ok(envelope) => self.add(Name::Statement, envelope.clone()),
            Err(why) => self.lacks(Name::Statement, why.clone()),
        }
    }
}

/// How many entries of the log a checkpoint covers.
pub(super) fn covered(checkpoint: &Checkpoint) -> u64 {
    SignedTree::of(checkpoint.clone()).map_or(0, |tree| tree.entries())
}

/// The latest checkpoint.
pub(super) fn checkpoint(place: &Place<'_>) -> Option<Vec<u8>> {
    fs::read(place.state_dir.join(CHECKPOINT_FILE)).ok()
}

/// Has the daemon attest the run, for this incident.
pub(super) async fn attest(client: &Client, incident: &Incident<'_>) -> Result<Vec<u8>, String> {
    let nonce = statement_nonce(incident);
    let request = pb::AttestRequest { run: incident.run_id.clone(), nonce: nonce.to_vec(), at: String::new() };
    match client.attestation().attest(request).await {
        Ok(answer) => Ok(answer.into_inner().envelope),
        Err(status) => Err(format!("the daemon did not attest the run: {}", Fail::from(status).message)),
    }
}

/// The stored statement about the run that an entry of the file names: of the incident, else of the end of the run.
pub(super) fn stored(place: &Place<'_>, incident: &Incident<'_>, entries: &[Logged]) -> Result<Vec<u8>, String> {
    let mut why = "the log has no entry about a stored one".to_owned();
    for at in [At::Incident, At::End] {
        let mut named = entries.iter().rev().filter_map(|entry| stated(entry, incident));
        let Some(stated) = named.find(|stated| stated.at == at) else { continue };
        let name = match at {
            At::Incident => format!("statement-incident-{}.json", incident.id.n),
            other => format!("statement-{}.json", other.name()),
        };
        let path = place.state_dir.join("runs").join(&incident.run_id).join(name);
        why = match (stated.digest, bounded::read(&path, Name::Statement.limit())) {
            (None, _) => stated.problem.unwrap_or("it was not stored").to_owned(),
            (Some(digest), Ok(bytes)) if digest == digest_of(&bytes) => return Ok(bytes),
            (Some(_), Ok(_)) => format!("{} is not the one that the log names", path.display()),
            (Some(_), Err(error)) => format!("{} cannot be read: {error}", path.display()),
        };
    }
    Err(why)
}

/// The recordings that the daemon has of the run, copied to a file.
pub(super) async fn fetch(client: &Client, run: &str, to: &Path) -> Result<RunRecordings, Fail> {
    export::fetch(client, run, to, true).await?;
    RunRecordings::at(to)
}
