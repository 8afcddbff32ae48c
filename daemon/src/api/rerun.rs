//! Starting an ended run again: what is kept of its start, how the node and the new start differ, and the record of it.
//!
//! ```text
//! PrepareRerun ─► plan: command, variables, checkpoints, differences of the node and of the start that is asked about
//! Start (rerun_of) ─► policy from the store ─► compare ─► refused, or accepted with a reason ─► linked by lineage.json and the log
//! ```
//! Invariants: only an ended run of the same owner is started again, by who may see it; a difference that can change results, or the
//! lack of what it takes to know, refuses the start unless a reason is given; both are compared again at the start itself; a command
//! that is not as the audit log has it is given to nobody.

use super::{
    Context,
    authorize::Principal,
    beginning::{self, StartFacts},
    connection::Maker,
    limits::Share,
    manifest,
    runs::{blocking, deliver},
};
use crate::{
    attest::OwnGpus,
    causes::chain,
    redact::REDACTED,
    runs::{
        FoundRun,
        factors::KeptFactors,
        started::{Said, Started},
        store::EndedRun,
    },
    watchers::keep::{STATE_CODE, lasting},
};
use failsafe_attest::Fact;
use failsafe_core::{
    GpuId, Policy, RunId,
    event::FactorClass,
    health::Until,
    record::{FactorChange, Record},
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tonic::Status;

/// Longest reason.
const REASON: usize = 1_000;

/// A start that repeats an ended run.
pub(super) struct Again {
    /// The run that is started again.
    pub of: Arc<EndedRun>,
    /// What differs.
    pub changes: Vec<FactorChange>,
    /// What is not known of the earlier run.
    unknown: Vec<String>,
    /// Why that is accepted.
    accepted: String,
    checkpoint: String,
}

/// The ended run that a request names.
pub(super) fn ended(context: &Context, who: &Principal, run: &str) -> Result<Arc<EndedRun>, Status> {
    match context.find(who, run)?.0 {
        FoundRun::Ended(ended) => Ok(ended),
        found => Err(ErrorReason::RunNotEnded.status(format!(
            "run `{}` ({}) still lives: only a run that has ended is started again",
            found.run().name,
            found.run().id
        ))),
    }
}

/// The policy that a run was pinned to.
pub(super) async fn policy(context: &Arc<Context>, of: &EndedRun) -> Result<Policy, Status> {
    let (context, digest) = (context.clone(), of.run.policy);
    let kept = blocking(move || context.registry.store().policy(&digest)).await?;
    kept.map_err(|error| {
        ErrorReason::RunNotRestartable.status(format!("the policy of the run is not stored: {}", error.chain()))
    })
}

/// What it takes to start a run again.
pub(super) async fn prepare(
    context: &Arc<Context>,
    who: &Principal,
    share: Share,
    maker: &Maker,
    request: v1::PrepareRerunRequest,
) -> Result<v1::RerunPlan, Status> {
    let v1::PrepareRerunRequest { run, command, environment } = request;
    let of = ended(context, who, &run)?;
    let (started, unproved) = started(context, &of).await?;
    let (log, id) = (context.log.path().to_owned(), of.run.id);
    let claims = context.work(share).read(share, move || manifest::claims(&log, id)).await??;
    let said = Said { command, environment: environment.into_iter().collect(), ..Said::default() };
    let asked = (!said.command.is_empty()).then_some(&started);
    let facts = facts(context, maker, (&of.run.gpus, &of.run.mig), &said).await?;
    let (changes, mut unknown) = compared(context, &of, asked, facts).await?;
    unknown.extend(unproved);
    let manifest = claims.manifest.map(|(manifest, _)| manifest.canonical());
    let manifest = manifest.transpose().map_err(|error| ErrorReason::Internal.status(error.to_string()))?;
    // One that is not kept is refused at the start.
    let policy = policy(context, &of).await.ok().and_then(|policy| serde_json::to_vec(&policy).ok());
    let variable = |(name, value): (String, Option<String>)| v1::RerunVariable { name, value };
    let gpus = |(gpu, slices): (&GpuId, &BTreeSet<String>)| (gpu.clone(), slices.clone());
    let slices: BTreeMap<GpuId, BTreeSet<String>> = of.run.mig.iter().map(gpus).collect();
    let whole = of.run.gpus.iter().filter(|gpu| !slices.contains_key(*gpu)).map(|gpu| gpu.0.clone());
    Ok(v1::RerunPlan {
        run_id: id.to_string(),
        run_name: of.run.name.clone(),
        owner_uid: of.run.owner_uid,
        policy_name: of.policy_name.clone(),
        policy_digest: of.run.policy.to_string(),
        // Those of the daemon say how this run came about, and are refused of anybody else.
        labels: of.run.labels.clone().into_iter().filter(|(key, _)| !key.starts_with("failsafe.")).collect(),
        gpus: whole.chain(slices.values().flatten().cloned()).collect(),
        command: started.command,
        redacted: started.redacted.into_iter().filter_map(|n| u32::try_from(n).ok()).collect(),
        directory: started.directory,
        environment: started.environment.into_iter().map(variable).collect(),
        variables: started.variables.into_iter().collect(),
        manifest: manifest.unwrap_or_default().into_bytes(),
        checkpoints: claims.checkpoints.into_iter().map(|(it, at)| manifest::announced(it, at)).collect(),
        differences: changes.iter().map(super::restart_gate::shown).collect(),
        unknown,
        policy: policy.unwrap_or_default(),
    })
}

impl Again {
    /// Compares a start with the run that it repeats.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION`: a factor that can change results differs or is not known, and no reason accepts that.
    pub(super) async fn compare(
        context: &Arc<Context>,
        of: Arc<EndedRun>,
        maker: &Maker,
        (owner, gpus, mig): (u32, &BTreeSet<GpuId>, &BTreeMap<GpuId, BTreeSet<String>>),
        said: &Said,
        (accepted, checkpoint): (String, String),
    ) -> Result<Again, Status> {
        if of.run.owner_uid != owner {
            return Err(ErrorReason::PermissionDenied.status(format!(
                "run `{}` was a run of uid {}, and is started again for that user only",
                of.run.name, of.run.owner_uid
            )));
        }
        if accepted.len() > REASON || checkpoint.len() > REASON {
            let message = format!("accept_differences, checkpoint: expected at most {REASON} bytes");
            return Err(ErrorReason::InvalidRequest.status(message));
        }
        if said.command.iter().chain(said.environment.values()).any(|text| text.contains(REDACTED)) {
            let message = "the command or a variable has a redacted value: give the real one";
            return Err(ErrorReason::InvalidRequest.status(message));
        }
        let (started, unproved) = started(context, &of).await?;
        let facts = facts(context, maker, (gpus, mig), said).await?;
        let (changes, mut unknown) = compared(context, &of, Some(&started), facts).await?;
        unknown.extend(unproved);
        let decides = |change: &&FactorChange| change.class == FactorClass::Result;
        let mut open: Vec<String> = changes.iter().filter(decides).map(line).collect();
        open.extend(unknown.iter().map(|what| format!("not known: {what}")));
        if !open.is_empty() && accepted.trim().is_empty() {
            let differ = changes.iter().any(|change| decides(&change));
            let reason = if differ { ErrorReason::ResultsDiffer } else { ErrorReason::CannotKnow };
            return Err(reason.status(format!(
                "the new run would differ from run `{}` ({}) in what can change results: {}",
                of.run.name,
                of.run.id,
                open.join("; ")
            )));
        }
        Ok(Again { of, changes, unknown, accepted, checkpoint })
    }

    /// The entry of the log.
    pub(super) fn record(&self, run: RunId, name: String, who: &Principal) -> Record {
        Record::Rerun {
            run,
            name,
            of: self.of.run.id,
            checkpoint: self.checkpoint.clone(),
            differences: self.changes.clone(),
            unknown: self.unknown.clone(),
            accepted: (!self.accepted.trim().is_empty()).then(|| self.accepted.clone()),
            actor: who.actor(),
        }
    }
}

fn line(change: &FactorChange) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
    format!("{} {} -> {}", change.path, value(&change.old), value(&change.new))
}

/// With what a run was started, and what is not known of that.
///
/// # Errors
/// It is not kept, or it is not as it was.
async fn started(context: &Arc<Context>, of: &EndedRun) -> Result<(Started, Option<String>), Status> {
    let refused = |why: String| {
        let name = &of.run.name;
        let id = of.run.id;
        ErrorReason::RunNotRestartable.status(format!("run `{name}` ({id}) cannot be started again: {why}"))
    };
    let (reader, id) = (context.clone(), of.run.id);
    let read = blocking(move || {
        let started = Started::read(reader.registry.store(), id);
        let started = started.map_err(|why| format!("what it was started with is not stored: {why}"))?;
        let logged = started.is_as_logged(reader.log.path());
        Ok((started, logged.map_err(|error| format!("the audit log cannot be read: {}", chain(&error)))?))
    });
    match read.await?.map_err(refused)? {
        (started, Some(true)) => Ok((started, None)),
        (started, None) => {
            let what = "whether start.json is as it was: the audit log does not have its digest (an entry of an earlier version)";
            Ok((started, Some(what.to_owned())))
        }
        (_, Some(false)) => {
            let why = "start.json is not as the audit log has it: somebody changed it".to_owned();
            let what = format!("start.json of run {id} is not as the audit log has it");
            deliver(context, lasting(STATE_CODE, what, Until::Reset)).await?;
            Err(refused(why))
        }
    }
}

/// The facts of the node, and of a start by this process.
async fn facts(
    context: &Arc<Context>,
    maker: &Maker,
    gpus: (&BTreeSet<GpuId>, &BTreeMap<GpuId, BTreeSet<String>>),
    said: &Said,
) -> Result<Vec<Fact>, Status> {
    let StartFacts { mut node, run } = beginning::facts(context, maker, gpus, said).await?;
    node.extend(run);
    Ok(node)
}

/// What differs from an ended run, the worst first, and what is not known of it. `started`: command and environment are compared.
async fn compared(
    context: &Arc<Context>,
    of: &EndedRun,
    started: Option<&Started>,
    facts: Vec<Fact>,
) -> Result<(Vec<FactorChange>, Vec<String>), Status> {
    let (reader, id) = (context.clone(), of.run.id);
    let kept = blocking(move || KeptFactors::read(reader.registry.store(), id)).await?;
    let table = &context.attestor.table;
    let own = OwnGpus::new(&facts, &of.run.gpus.iter().map(|gpu| gpu.0.clone()).collect());
    let given = |path: &str| path == "run/command" || path.starts_with("run/env");
    let (mut changes, mut unknown) = (Vec::new(), Vec::new());
    if let Some(started) = started {
        changes.extend(started.known(table).differences(&facts, table, given).changes);
    }
    match kept.filter(|kept| kept.first_ns != 0) {
        Some(kept) => {
            let measured = |path: &str| {
                (path.starts_with("node/") && own.counts(path))
                    || path == "run/cpu/count"
                    || path.starts_with("run/gpu")
            };
            changes.extend(kept.known.differences(&facts, table, measured).changes);
        }
        None => unknown.push("the node and the processors of the earlier run: it was never read".to_owned()),
    }
    changes.sort_by(|a, b| (a.class, &a.path).cmp(&(b.class, &b.path)));
    Ok((changes, unknown))
}
