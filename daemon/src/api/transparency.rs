//! `LogService`: entries of the audit log in pages, its latest checkpoint, and proofs.
//!
//! Invariants: who may read which entry is decided where `EventService` decides it ([`events::Log`]); a proof reads the log within
//! the limit `proofs`, which leaves turns of reading to others.

use super::{
    Context,
    authorize::Principal,
    events,
    follow::{Answer, Bounds},
    limits::{Limit, Quota, Share},
    peer::Peer,
};
use failsafe_journal::{
    Filter, Query,
    storage::bounded,
    tree::{
        SignedTree,
        extends::{NotExtended, extends},
        prove::{ProveError, prove},
        signed::CHECKPOINT_FILE,
    },
};
use failsafe_proto::{ErrorReason, v1};
use failsafe_tlog::{Checkpoint, Hash};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tonic::{Request, Response, Status};

/// Proofs that are made at once. A lane has four turns of reading.
const PROOFS: Quota = Quota { per_user: 1, total: 2, reserve: 2 };
/// Entries of a page, if the request does not say, and at most.
const ENTRIES: (usize, usize) = (100, 1_000);
/// Bytes of a page, more or less.
const PAGE_BYTES: usize = 1 << 20;
/// How long reading a page may take, more or less.
const PAGE_TIME: Duration = Duration::from_millis(50);

/// The limit of proofs.
pub fn limit() -> Arc<Limit> {
    Limit::new("proofs", PROOFS)
}

/// `LogService`.
pub struct Transparency(pub Arc<Context>);

#[tonic::async_trait]
impl v1::log_service_server::LogService for Transparency {
    type FollowStream = Answer<v1::Record>;

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        let v1::ListEntriesRequest { from, limit, run, kinds } = request.into_inner();
        let limit = match usize::try_from(limit).unwrap_or(usize::MAX) {
            0 => ENTRIES.0,
            limit => limit.min(ENTRIES.1),
        };
        let run = self.run(&who, &run)?;
        let query = Query { from, filter: Filter { run, kinds, ..Filter::default() }, ..Query::default() };
        let mut log = events::Log::new(self.0.clone(), who, query);
        let read = self.0.work(share).read(share, move || log.page(&Bounds::of(PAGE_TIME, PAGE_BYTES), limit));
        let events::Page { items, more, behind } = read.await??;
        Ok(Response::new(v1::ListEntriesResponse { entries: items, next: behind.unwrap_or(from), end: !more }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        let (_who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        let path = self.latest();
        let (checkpoint, entries) = self
            .0
            .work(share)
            .read(share, move || {
                let note = read_checkpoint(&path)?;
                let entries = tree(&note, "the latest checkpoint")?.entries();
                Ok::<_, Status>((note, entries))
            })
            .await??;
        Ok(Response::new(v1::GetCheckpointResponse { checkpoint, entries }))
    }

    async fn prove_inclusion(
        &self,
        request: Request<v1::ProveInclusionRequest>,
    ) -> Result<Response<v1::ProveInclusionResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        let index = request.into_inner().entry;
        let mut log = events::Log::new(self.0.clone(), who, Query { from: index, ..Query::default() });
        let (dir, latest, limit) = (self.dir(), self.latest(), self.0.proofs.clone());
        let proved = self.0.work(share).read(share, move || {
            // Before the work: what a caller may not read looks as if it were not there.
            let entry =
                log.entry(index)?.ok_or_else(|| ErrorReason::NotStored.status(format!("there is no entry {index}")))?;
            let _permit = permit(&limit, share)?;
            let note = read_checkpoint(&latest)?;
            let checkpoint = Checkpoint::unverified(&note).map_err(|error| damaged("the latest checkpoint", &error))?;
            let proof = prove(&dir, index, checkpoint, note).map_err(|error| no_proof(&error))?;
            match proof.extra {
                Some(found) if *found == *entry => Ok((proof.index, proof.hashes, found, proof.checkpoint)),
                _ => Err(ErrorReason::DataDamaged.status(format!("entry {index} changed while it was read"))),
            }
        });
        let (leaf, hashes, entry, checkpoint) = proved.await??;
        Ok(Response::new(v1::ProveInclusionResponse { leaf, hashes: bytes(&hashes), entry, checkpoint }))
    }

    async fn prove_consistency(
        &self,
        request: Request<v1::ProveConsistencyRequest>,
    ) -> Result<Response<v1::ProveConsistencyResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        who.on_node()?;
        let v1::ProveConsistencyRequest { old_checkpoint, new_checkpoint } = request.into_inner();
        let named = |note: &[u8], field: &str| {
            let read = Checkpoint::unverified(note).map_err(|error| error.to_string());
            let tree = read.and_then(|read| SignedTree::of(read).ok_or("its origin names no first entry".to_owned()));
            tree.map_err(|why| ErrorReason::InvalidRequest.status(format!("{field}: {why}")))
        };
        let old = named(&old_checkpoint, "old_checkpoint")?;
        let given = match new_checkpoint.is_empty() {
            true => None,
            false => Some((named(&new_checkpoint, "new_checkpoint")?, new_checkpoint)),
        };
        let (dir, latest, limit) = (self.dir(), self.latest(), self.0.proofs.clone());
        let old_size = old.size;
        let proved = self.0.work(share).read(share, move || {
            let _permit = permit(&limit, share)?;
            let (new, note) = match given {
                Some(given) => given,
                None => {
                    let note = read_checkpoint(&latest)?;
                    (tree(&note, "the latest checkpoint")?, note)
                }
            };
            let hashes = extends(&dir, &old, &new).map_err(|error| not_extended(&error))?;
            Ok::<_, Status>((hashes, note))
        });
        let (hashes, new_checkpoint) = proved.await??;
        Ok(Response::new(v1::ProveConsistencyResponse { old_size, hashes: bytes(&hashes), new_checkpoint }))
    }

    async fn follow(&self, request: Request<v1::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let (who, peer) = (self.0.principal(&request)?, Peer::of(&request)?);
        let v1::FollowRequest { from, run } = request.into_inner();
        events::is_there(&self.0, from)?;
        let run = self.run(&who, &run)?;
        let query = Query { from, filter: Filter { run, ..Filter::default() }, ..Query::default() };
        Ok(Response::new(events::stream(&self.0, who, peer, query, true)))
    }
}

impl Transparency {
    fn run(&self, who: &Principal, wanted: &str) -> Result<Option<String>, Status> {
        match wanted {
            "" => Ok(None),
            wanted => Ok(Some(self.0.find(who, wanted)?.0.run().id.to_string())),
        }
    }

    fn latest(&self) -> PathBuf {
        self.0.config.state_dir.join(CHECKPOINT_FILE)
    }

    /// The folder of the log.
    fn dir(&self) -> PathBuf {
        self.0.log.path().parent().unwrap_or(Path::new("/")).to_owned()
    }
}

fn permit(limit: &Arc<Limit>, share: Share) -> Result<super::limits::Permit, Status> {
    limit.take(share).map_err(|exceeded| ErrorReason::LimitReached.status(exceeded.to_string()))
}

fn read_checkpoint(path: &Path) -> Result<Vec<u8>, Status> {
    bounded::read(path, bounded::LARGEST).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ErrorReason::NotStored.status(
            "no checkpoint of the audit log was signed yet: the daemon signs one at the interval `audit_log.checkpoint`",
        ),
        _ => ErrorReason::StorageUnavailable.status(format!("the latest checkpoint cannot be read: {error}")),
    })
}

fn tree(note: &[u8], what: &str) -> Result<SignedTree, Status> {
    let checkpoint = Checkpoint::unverified(note).map_err(|error| damaged(what, &error))?;
    SignedTree::of(checkpoint)
        .ok_or_else(|| ErrorReason::DataDamaged.status(format!("the origin of {what} names no first entry")))
}

fn damaged(what: &str, error: &dyn std::error::Error) -> Status {
    ErrorReason::DataDamaged.status(format!("{what} is damaged: {error}"))
}

fn no_proof(error: &ProveError) -> Status {
    let text = crate::causes::chain(error);
    match error {
        ProveError::NotCovered { .. } => ErrorReason::NotSigned
            .status(format!("{text}; the daemon signs one at the interval `audit_log.checkpoint`")),
        ProveError::BeforeTree { .. } | ProveError::Removed { .. } => ErrorReason::NotStored.status(text),
        ProveError::Tree(_) | ProveError::Differs { .. } | ProveError::NoProof(_) | ProveError::Read(_) => {
            ErrorReason::DataDamaged.status(format!("the entry cannot be proved: {text}"))
        }
    }
}

fn not_extended(error: &NotExtended) -> Status {
    let reason = match error {
        NotExtended::OtherLog { .. } => ErrorReason::OtherLog,
        NotExtended::Forked { .. } => ErrorReason::LogForked,
        NotExtended::Shortened { .. } => ErrorReason::LogShortened,
        NotExtended::Stale { .. } => ErrorReason::CheckpointStale,
        NotExtended::Removed(_) => ErrorReason::NotCompared,
        NotExtended::Tree(_) | NotExtended::Read(_) => {
            let text = format!("the checkpoints cannot be compared: {}", crate::causes::chain(error));
            return ErrorReason::DataDamaged.status(text);
        }
    };
    reason.status(error.to_string())
}

fn bytes(hashes: &[Hash]) -> Vec<Vec<u8>> {
    hashes.iter().map(|hash| hash.to_vec()).collect()
}
