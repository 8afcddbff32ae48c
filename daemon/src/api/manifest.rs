//! Manifests and checkpoints of runs: what an owner claims. They are entries of the audit log and nowhere else, so that they are
//! bound to the run's other entries, and outlive the daemon.
//!
//! Invariants: only about live runs, by their exact name; what is stored was redacted; the answer comes when the entry is durable.
//! The daemon opens no file that a manifest or a checkpoint names. Manifests of a run reach the engine in the order of the log.

use super::{Context, authorize::Principal, control::not_judged, convert, limits::Share, runs::deliver};
use crate::{
    log::{self, claims::Claims},
    pipeline::Message,
    platform::clock,
    redact::Redactor,
    runs::{FoundRun, LiveRun, claims::Unclaimed},
};
use failsafe_attest::{
    Manifest,
    manifest::{MAX_TEXT, is_digest},
};
use failsafe_core::{
    Input, MonoTime, RunId,
    input::Run,
    record::{Checkpoint, Record},
    signal::Real,
};
use failsafe_proto::{ErrorReason, v1};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tonic::Status;

/// What was claimed about a run, by the audit log.
///
/// # Errors
/// `UNAVAILABLE`: the log cannot be read.
pub(super) fn claims(log: &Path, run: RunId) -> Result<Claims, Status> {
    log::claims::claims(log, run)
        .map_err(|error| ErrorReason::StorageUnavailable.status(format!("the audit log cannot be read: {error}")))
}

/// How long a manifest waits for those before it.
const WAIT: Duration = Duration::from_secs(10);

pub(super) async fn set(
    context: &Arc<Context>,
    who: &Principal,
    share: Share,
    request: v1::SetManifestRequest,
) -> Result<v1::SetManifestResponse, Status> {
    // Of a guarded run nobody judges the numbers, and the daemon that takes it up has read the log already.
    let live = judged(context, who, &request.run)?;
    let run = live.known().clone();
    let new = New::of(&request.manifest, context)?;
    let (digest, redacted) = (format!("sha256:{}", hex::encode(Sha256::digest(&new.text))), new.redacted);
    let late = |_| ErrorReason::NotInTime.status(format!("claims before it took {} s: try again", WAIT.as_secs()));
    let turn = tokio::time::timeout(WAIT, live.claims.turn()).await.map_err(late)?;
    keep(context, who, share, (run.id, turn), new).await?;
    Ok(v1::SetManifestResponse { run_id: run.id.to_string(), run_name: run.name, digest, redacted })
}

/// A manifest to be stored.
pub(super) struct New {
    /// Its canonical text, redacted.
    text: String,
    /// Its numbers, which rules may read.
    numbers: BTreeMap<String, Real>,
    redacted: u32,
}

impl New {
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn of(json: &[u8], context: &Context) -> Result<New, Status> {
        let wrong = |error| ErrorReason::InvalidRequest.status(format!("the manifest is not valid: {error}"));
        let mut manifest = Manifest::from_json(json).map_err(wrong)?;
        let redacted = redact(&mut manifest, &context.config.redact);
        Ok(New { text: manifest.canonical().map_err(wrong)?, numbers: manifest.numbers(), redacted })
    }

    /// Of a run that is about to be made; empty: it has none.
    pub fn of_start(json: &[u8], context: &Context) -> Result<Option<New>, Status> {
        if json.is_empty() { Ok(None) } else { New::of(json, context).map(Some) }
    }
}

/// Records the manifest that a run is made with, before anybody else's.
///
/// # Errors
/// The run is made; the log did not take its manifest.
pub(super) async fn of_new(
    context: &Arc<Context>,
    who: &Principal,
    share: Share,
    (run, unclaimed): (RunId, Unclaimed),
    new: Option<New>,
) -> Result<(), Status> {
    match new {
        Some(new) => keep(context, who, share, (run, unclaimed), new).await,
        None => Ok(()),
    }
}

/// Records it, and hands its numbers to the engine once the entry is durable: the next daemon then knows them, too. `turn` ends when both
/// are done.
async fn keep(
    context: &Arc<Context>,
    who: &Principal,
    share: Share,
    (run, turn): (RunId, impl Send + 'static),
    new: New,
) -> Result<(), Status> {
    let New { text, numbers, .. } = new;
    let (recorder, engine, actor) = (context.clone(), context.clone(), who.actor());
    let recorded = async move { record(&recorder, share, run, Record::Manifest { manifest: text, actor }).await };
    in_turn(turn, recorded, async move {
        if numbers.is_empty() {
            return Ok(());
        }
        let at = MonoTime(clock::monotonic_ns());
        deliver(&engine, Message::Input(Input::Manifest { run, values: numbers, at })).await
    })
    .await
}

/// One after the other, within a turn. Whoever goes away in between does not end it: the engine would lack what the log has.
async fn in_turn(
    turn: impl Send + 'static,
    recorded: impl Future<Output = Result<(), Status>> + Send + 'static,
    delivered: impl Future<Output = Result<(), Status>> + Send + 'static,
) -> Result<(), Status> {
    let done = tokio::spawn(async move {
        let done = match recorded.await {
            Ok(()) => delivered.await,
            refused => refused,
        };
        drop(turn);
        done
    });
    done.await.map_err(|error| ErrorReason::Internal.status(format!("a manifest was cut short: {error}")))?
}

pub(super) async fn get(
    context: &Context,
    who: &Principal,
    share: Share,
    request: v1::GetManifestRequest,
) -> Result<v1::GetManifestResponse, Status> {
    let (found, _) = context.find(who, &named(who, &request.run)?)?;
    let (log, id) = (context.log.path().to_owned(), found.run().id);
    let Claims { manifest, checkpoints } = context.work(share).read(share, move || claims(&log, id)).await??;
    let (manifest, set_ns) = match manifest {
        Some((manifest, set_ns)) => {
            (manifest.canonical().map_err(|e| ErrorReason::Internal.status(e.to_string()))?, set_ns)
        }
        None => (String::new(), 0),
    };
    Ok(v1::GetManifestResponse {
        run_id: id.to_string(),
        run_name: found.run().name.clone(),
        manifest: manifest.into_bytes(),
        set_ns: i64::try_from(set_ns).unwrap_or(i64::MAX),
        checkpoints: checkpoints.into_iter().map(|(checkpoint, at)| announced(checkpoint, at)).collect(),
    })
}

pub(super) async fn add(
    context: &Context,
    who: &Principal,
    share: Share,
    request: v1::AddCheckpointRequest,
) -> Result<v1::AddCheckpointResponse, Status> {
    let run = live(context, who, &request.run)?;
    let v1::Checkpoint { path, step, good, digest, bytes, announced_ns: _ } =
        request.checkpoint.ok_or_else(|| ErrorReason::InvalidRequest.status("checkpoint: it is missing"))?;
    if path.is_empty() || path.len() > MAX_TEXT || path.chars().any(char::is_control) {
        let message = format!("checkpoint.path: expected 1 to {MAX_TEXT} bytes, without control characters");
        return Err(ErrorReason::InvalidRequest.status(message));
    }
    if !is_digest(&digest) {
        return Err(ErrorReason::InvalidRequest.status("checkpoint.digest: expected sha256: and 64 hexadecimal digits"));
    }
    let mut shown = vec![path];
    context.config.redact.argv(&mut shown, &[]);
    let checkpoint = Checkpoint { path: shown.remove(0), step, good, digest, bytes };
    record(context, share, run.id, Record::Checkpoint { checkpoint, actor: who.actor() }).await?;
    Ok(v1::AddCheckpointResponse { run_id: run.id.to_string(), run_name: run.name })
}

/// The run that a request names, or in which its sender is.
fn named(who: &Principal, run: &str) -> Result<String, Status> {
    match (run, who.inside) {
        ("", Some(inside)) => Ok(inside.to_string()),
        ("", None) => Err(ErrorReason::InvalidRequest.status("run: the caller is in no run: expected its name or id")),
        (run, _) => Ok(run.to_owned()),
    }
}

/// A live or guarded run that the caller may make claims about.
fn live(context: &Context, who: &Principal, run: &str) -> Result<Run, Status> {
    match found(context, who, run)? {
        FoundRun::Ended(run) => Err(ended(&run.run)),
        found => Ok(found.run().clone()),
    }
}

/// The same of a run that is judged.
fn judged(context: &Context, who: &Principal, run: &str) -> Result<Arc<LiveRun>, Status> {
    match found(context, who, run)? {
        FoundRun::Live(live) => Ok(live),
        FoundRun::Guarded(guarded) => Err(not_judged(&guarded)),
        FoundRun::Ended(run) => Err(ended(&run.run)),
    }
}

fn ended(run: &Run) -> Status {
    ErrorReason::RunEnded.status(format!("run `{}` has ended: claims are accepted while a run lives", run.name))
}

fn found(context: &Context, who: &Principal, run: &str) -> Result<FoundRun, Status> {
    let wanted = named(who, run)?;
    let found = context.registry.find_exact(&wanted, |run| who.may_see(run).is_some());
    found.map_err(|error| convert::find_error(&error))
}

/// Records a claim, and waits until it is durable.
async fn record(context: &Context, share: Share, id: RunId, record: Record) -> Result<(), Status> {
    let log = context.log.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    // On a thread: the log's queue has a lock.
    let queued = context.work(share).read(share, move || {
        log.record_then(&record, Some(id), None, move |done| drop(tell.send(done)));
    });
    queued.await?;
    match told.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ErrorReason::LimitReached.status(format!("the audit log did not take it: {error}"))),
        Err(_) => Err(ErrorReason::DaemonStopping.status("the daemon is stopping")),
    }
}

/// Redacts secrets. The number of texts that had one.
fn redact(manifest: &mut Manifest, redactor: &Redactor) -> u32 {
    let mut redacted = 0;
    manifest.texts(&mut |name, text| {
        let mut pair = vec![format!("{name}={text}")];
        redactor.argv(&mut pair, &[]);
        let shown = pair.remove(0);
        let shown = shown.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).unwrap_or(&shown);
        if shown != text {
            *text = shown.to_owned();
            redacted += 1;
        }
    });
    redacted
}

pub(super) fn announced(checkpoint: Checkpoint, wall_ns: u64) -> v1::Checkpoint {
    let Checkpoint { path, step, good, digest, bytes } = checkpoint;
    v1::Checkpoint { path, step, good, digest, bytes, announced_ns: i64::try_from(wall_ns).unwrap_or(i64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::claims::Claims;
    use std::sync::Mutex;

    #[test]
    fn secrets_in_a_manifest_are_redacted_by_the_name_and_by_the_form_of_their_value() {
        let text = "[config]\nhf_token = \"abc\"\nwandb = \"sk-0123456789abcdef0123\"\nname = \"plain text, with = sign\"\n\
                    [code]\nrepository = \"https://user:pw@git.example/x\"\n[seeds]\ntoken = 7\n";
        let mut manifest = Manifest::parse("m", text).unwrap();
        assert_eq!(redact(&mut manifest, &Redactor::default()), 3);
        let shown = manifest.canonical().unwrap();
        for secret in ["abc\"", "sk-0123", "user:pw"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("plain text, with = sign") && shown.contains("\"token\":7"), "{shown}");
    }

    /// A log and an engine that note what reaches them; the first entry is durable when the test lets it be.
    #[test]
    fn the_engine_has_manifests_in_the_order_of_the_log() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let claims = Claims::default();
            claims.open();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let note = |what: &'static str| {
                let seen = seen.clone();
                async move {
                    seen.lock().unwrap().push(what);
                    Ok(())
                }
            };
            let (durable, is_durable) = tokio::sync::oneshot::channel::<()>();
            let (first_in_log, first_in_engine) = (note("log 1"), note("engine 1"));
            let turn = claims.turn().await;
            let first = async move {
                first_in_log.await?;
                is_durable.await.unwrap();
                Ok(())
            };
            // Its caller goes away while the disk has it.
            let caller = in_turn(turn, first, first_in_engine);
            assert!(tokio::time::timeout(Duration::from_millis(1), caller).await.is_err());
            let second = async {
                let turn = claims.turn().await;
                in_turn(turn, note("log 2"), note("engine 2")).await
            };
            let let_go = async {
                tokio::task::yield_now().await;
                durable.send(()).unwrap();
            };
            let (second, ()) = tokio::join!(second, let_go);
            second.unwrap();
            assert_eq!(*seen.lock().unwrap(), ["log 1", "engine 1", "log 2", "engine 2"]);
        });
    }

    #[test]
    fn the_engine_does_not_get_a_manifest_that_the_log_refuses() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let refused = async { Err(ErrorReason::LimitReached.status("a test's")) };
        let done = runtime.block_on(in_turn((), refused, async { panic!("it is not in the log") }));
        assert_eq!(done.unwrap_err().message(), "a test's");
    }

    #[test]
    fn nobody_claims_before_whoever_made_the_run_has() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let claims = Claims::default();
            let early = tokio::time::timeout(Duration::ZERO, claims.turn()).await;
            assert!(early.is_err(), "the run is being made");
            let (other, ()) = tokio::join!(claims.turn(), async {
                tokio::task::yield_now().await;
                claims.open();
                claims.open();
            });
            assert!(other.is_some());
            assert!(tokio::time::timeout(Duration::ZERO, claims.turn()).await.is_err(), "one at a time");
        });
    }
}
