//! Stored statements of runs, for who may see the run.

use super::{Context, authorize::Principal, limits::Share};
use crate::runs::statements::Which;
use failsafe_core::{RunId, record::Record};
use failsafe_journal::{Filter, Query, Search};
use failsafe_proto::v1;
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
        return Err(Status::invalid_argument("run: only statements of runs are stored, and `at` names one of them"));
    }
    if !nonce.is_empty() {
        return Err(Status::invalid_argument("nonce: a stored statement was made before the nonce was chosen"));
    }
    let (found, _) = context.find(who, run)?;
    let (id, name) = (found.run().id, found.run().name.clone());
    let which = Which::parse(at, id).ok_or_else(|| {
        Status::invalid_argument(format!("at: `{at}` is neither `start` nor `end` nor an incident of run `{name}`"))
    })?;
    let (registry, log) = (context.registry.clone(), context.log.path().to_owned());
    let read = context.work(share).read(share, move || {
        let bytes = which.read(registry.store(), id);
        let bytes = bytes.map_err(|error| Status::unavailable(format!("the statement cannot be read: {error}")))?;
        checked(bytes, logged(&log, id, which)?)
    });
    let envelope = read.await?.map_err(|status| {
        let message = format!("run `{name}` ({id}): {}", status.message());
        Status::new(status.code(), message)
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
    let unreadable =
        |error: &dyn std::fmt::Display| Status::unavailable(format!("the audit log cannot be read: {error}"));
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
            Err(Status::failed_precondition(message))
        }
        (Some(bytes), _) => Ok(bytes),
        (None, Logged { problem: Some(why), .. }) => {
            Err(Status::not_found(format!("there is no such statement: {why}")))
        }
        (None, Logged { digest: Some(_), .. }) => {
            Err(Status::not_found("the statement was stored, and was removed since"))
        }
        (None, Logged { .. }) => {
            Err(Status::not_found("no such statement is stored: its moment has not come, or it is being made"))
        }
    }
}
