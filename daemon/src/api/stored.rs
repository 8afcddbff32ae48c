//! Stored statements of runs, for who may see the run.

use super::{Context, authorize::Principal, limits::Share};
use crate::runs::statements::Which;
use failsafe_core::{RunId, record::Record};
use failsafe_journal::{Filter, Query, Search};
use failsafe_proto::{ErrorReason, v1};
use sha2::{Digest, Sha256};
use std::path::Path;
use tonic::Status;

/// The stored statement of a run that a request names.
pub(super) async fn get(
    context: &Context,
    who: &Principal,
    share: Share,
    (run, nonce, at): (&str, &[u8], &str),
) -> Result<v1::AttestResponse, Status> {
    if run.is_empty() {
        return Err(
            ErrorReason::InvalidRequest.status("run: only statements of runs are stored, and `at` names one of them")
        );
    }
    if !nonce.is_empty() {
        return Err(
            ErrorReason::InvalidRequest.status("nonce: a stored statement was made before the nonce was chosen")
        );
    }
    let (found, _) = context.find(who, run)?;
    let (id, name) = (found.run().id, found.run().name.clone());
    let which = Which::parse(at, id).ok_or_else(|| {
        ErrorReason::InvalidRequest
            .status(format!("at: `{at}` is neither `start` nor `end` nor an incident of run `{name}`"))
    })?;
    let (registry, log) = (context.registry.clone(), context.log.path().to_owned());
    let read = context.work(share).read(share, move || {
        let bytes = which.read(registry.store(), id);
        let bytes = bytes.map_err(|error| {
            ErrorReason::StorageUnavailable.status(format!("the statement cannot be read: {error}"))
        })?;
        checked(bytes, logged(&log, id, which)?)
    });
    let envelope = read.await?.map_err(|status| {
        let message = format!("run `{name}` ({id}): {}", status.message());
        ErrorReason::of(&status).unwrap_or(ErrorReason::Internal).status(message)
    })?;
    Ok(v1::AttestResponse { envelope })
}

/// What the audit log has of a statement.
#[derive(Default)]
struct Logged {
    /// Its digest.
    digest: Option<String>,
    /// Why there is none.
    problem: Option<String>,
}

fn logged(log: &Path, run: RunId, wanted: Which) -> Result<Logged, Status> {
    let unreadable = |error: &dyn std::fmt::Display| {
        ErrorReason::StorageUnavailable.status(format!("the audit log cannot be read: {error}"))
    };
    let filter = Filter { run: Some(run.to_string()), kinds: vec!["statement".to_owned()], ..Filter::default() };
    let mut found = Logged::default();
    for entry in Search::open(log, Query { filter, ..Query::default() }).map_err(|error| unreadable(&error))? {
        let entry = entry.map_err(|error| unreadable(&error))?;
        let Ok(Record::Statement { at, incident, digest, problem, .. }) = serde_json::from_value(entry.body) else {
            continue;
        };
        let of_it = at == wanted.at() && incident == wanted.incident(run);
        // One entry stands for all incidents beyond the limit.
        let beyond = incident.zip(wanted.incident(run)).is_some_and(|(limit, it)| limit.n < it.n);
        if of_it || (beyond && problem.is_some()) {
            found = Logged { digest, problem };
        }
    }
    Ok(found)
}

/// The stored bytes, if they are those of which the log has the digest. A log that does not have the entry any more shows nothing.
fn checked(bytes: Option<Vec<u8>>, logged: Logged) -> Result<Vec<u8>, Status> {
    match (bytes, logged) {
        (Some(bytes), Logged { digest: Some(digest), .. }) => {
            let found = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
            if found == digest {
                return Ok(bytes);
            }
            let message =
                format!("the statement is not the one that was stored: it has {found}, the audit log {digest}");
            Err(ErrorReason::StatementUnavailable.status(message))
        }
        (Some(bytes), _) => Ok(bytes),
        (None, Logged { problem: Some(why), .. }) => {
            Err(ErrorReason::NotStored.status(format!("there is no such statement: {why}")))
        }
        (None, Logged { digest: Some(_), .. }) => {
            Err(ErrorReason::NotStored.status("the statement was stored, and was removed since"))
        }
        (None, Logged { .. }) => {
            Err(ErrorReason::NotStored
                .status("no such statement is stored: its moment has not come, or it is being made"))
        }
    }
}
