//! `ShadowService`.

use super::{
    Context,
    authorize::Principal,
    control::{has_ended, not_judged},
    peer::Peer,
    runs::{Asked as AskedPolicy, deliver},
};
use crate::{
    pipeline::Message,
    runs::{FoundRun, LiveRun},
    shadows::{Asked, By, Delayed, Group, LeftOut, Listed, Named, Refused},
};
use failsafe_core::{
    RunId,
    drill::is_drill,
    shadow::{Difference, Key, Row, Tally},
};
use failsafe_proto::{ErrorReason, v1};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot::Receiver;
use tonic::{Request, Response, Status};

/// How long the thread of shadows is waited for: it judges what waits first.
const WAIT: Duration = Duration::from_secs(10);

/// `ShadowService`.
pub struct ShadowApi(pub Arc<Context>);

#[tonic::async_trait]
impl v1::shadow_service_server::ShadowService for ShadowApi {
    async fn add(&self, request: Request<v1::AddShadowRequest>) -> Result<Response<v1::Shadow>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let v1::AddShadowRequest { run, policy_toml, policy_file, policy_name } = request.into_inner();
        let (found, role) = self.0.find(&who, &run)?;
        who.may_shadow(role)?;
        let live = live(found)?;
        if is_drill(&live.run.labels) {
            return Err(ErrorReason::InvalidRequest.status("run: the run of a drill has no shadow"));
        }
        let asked = AskedPolicy::of(policy_name, policy_file, policy_toml)?;
        let (folder, of) = (self.0.config.policy_dir.clone(), who.clone());
        let policy = self.0.work(share).compile(share, move || asked.policy(&folder, &of)).await??;
        let digest = policy.digest();
        let asked = Asked {
            run: live.known().clone(),
            enforced: live.policy.clone(),
            policy: Arc::new(policy),
            digest,
            by: By::User(who.uid()),
            reserved: who.admin,
            actor: who.actor(),
        };
        let (order, begun) = self.0.shadows.add(asked.clone()).map_err(|why| refused(&why))?;
        deliver(&self.0, Message::Shadow(order)).await?;
        answer(begun).await?.map_err(|why| refused(&why))?;
        let shadows = self.0.shadows.clone();
        let run = live.run.id;
        self.0
            .work(share)
            .read(share, move || {
                // It judges all the same, without effect: only a restart ends it.
                if let Err(why) = shadows.keep(&asked) {
                    tracing::warn!(%run, why, "a shadow is not stored: a restart of the daemon ends it");
                }
            })
            .await?;
        let by = By::User(who.uid());
        let listed = self.0.shadows.list().into_iter();
        let listed = listed.filter(|one| one.by == by).find(|one| (one.run, one.digest) == (live.run.id, digest));
        let listed = listed.ok_or_else(|| refused(&Refused::NotLive))?;
        Ok(Response::new(shown(&listed)))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveShadowRequest>,
    ) -> Result<Response<v1::RemoveShadowResponse>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let v1::RemoveShadowRequest { run, policy } = request.into_inner();
        let (found, role) = self.0.find(&who, &run)?;
        who.may_shadow(role)?;
        let id = found.run().id;
        let mut named = self.named(&who, id, &policy);
        if !named.iter().any(|one| matches!(one.by, By::User(_)))
            && let Some((delayed, shown)) = self.named_delayed(&who, id, &policy)?
        {
            let (shadows, given_up) = (self.0.shadows.clone(), delayed.clone());
            let removed = self.0.work(share).read(share, move || shadows.give_up(&given_up)).await?;
            removed.map_err(|error| not_forgotten(&error))?;
            // It may have begun to judge meanwhile, and is ended like any other then.
            named = self.named(&who, id, &policy);
            if !named.iter().any(|one| delayed.is(one)) {
                return Ok(Response::new(v1::RemoveShadowResponse { shadow: Some(shown), found: None }));
            }
        }
        let listed = match named.as_slice() {
            [one] => one,
            [] => return Err(ErrorReason::RunNotFound.status(format!("the run has no shadow `{policy}`"))),
            _ => return Err(ambiguous(&policy)),
        };
        if let By::Rule(rule) = &listed.by {
            return Err(ErrorReason::InvalidRequest.status(format!(
                "the shadow is of rule {rule} of discovery: remove `shadow` there and restart failsafed"
            )));
        }
        let (shadows, kept) = (self.0.shadows.clone(), listed.clone());
        // Before it ends: one that cannot be forgotten would come back.
        let forgotten = self.0.work(share).read(share, move || shadows.forget(&kept)).await?;
        forgotten.map_err(|error| not_forgotten(&error))?;
        let (order, ended) = self.0.shadows.remove(listed, who.actor());
        deliver(&self.0, Message::Shadow(order)).await?;
        let group = tokio::time::timeout(WAIT, ended).await.map_err(|_| late())?;
        let group = group.map_err(|_| ErrorReason::RunEnded.status("the shadow has ended with its run"))?;
        Ok(Response::new(v1::RemoveShadowResponse { shadow: Some(shown(listed)), found: Some(reported(&group)) }))
    }

    async fn list(
        &self,
        request: Request<v1::ListShadowsRequest>,
    ) -> Result<Response<v1::ListShadowsResponse>, Status> {
        let who = self.0.principal(&request)?;
        let shadows = self.0.shadows.list();
        let judging = shadows.iter().filter(|one| sees(&who, &one.by)).map(shown);
        let shadows = judging.chain(self.delayed(&who).into_iter().map(|(_, shown)| shown)).collect();
        Ok(Response::new(v1::ListShadowsResponse { shadows }))
    }

    async fn report(
        &self,
        request: Request<v1::ShadowReportRequest>,
    ) -> Result<Response<v1::ShadowReportResponse>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let run = request.into_inner().run;
        let run: Option<RunId> = match run.as_str() {
            "" => None,
            run => Some(live(self.0.find(&who, run)?.0)?.run.id),
        };
        let turn = tokio::time::timeout(WAIT, self.0.work(share).report_turn(share)).await.map_err(|_| late())??;
        let seen = who.clone();
        let wait = self.0.shadows.report(run, move |by| sees(&seen, by), turn).map_err(|why| refused(&why))?;
        let groups = answer(wait).await?.iter().map(reported).collect();
        let left_out = match run {
            Some(_) => Vec::new(),
            None => self.0.shadows.left_out(),
        };
        let left_out =
            left_out.into_iter().filter(|left| sees(&who, &By::Rule(left.rule.clone()))).map(without).collect();
        Ok(Response::new(v1::ShadowReportResponse { groups, started_ns: self.0.started_ns, left_out }))
    }
}

impl ShadowApi {
    /// The shadows of the run that this name or digest can mean.
    fn named(&self, who: &Principal, run: RunId, policy: &str) -> Vec<Listed> {
        let mut named = self.0.shadows.list();
        named.retain(|one| one.run == run && sees(who, &one.by));
        named.retain(|one| one.policy_name == policy || one.digest.to_string() == policy);
        // One of a rule is not removed here: it is meant only if there is no other.
        if named.iter().any(|one| matches!(one.by, By::User(_))) {
            named.retain(|one| matches!(one.by, By::User(_)));
        }
        named
    }

    /// The shadow of the run that this name or digest means among those that do not judge yet.
    fn named_delayed(
        &self,
        who: &Principal,
        run: RunId,
        policy: &str,
    ) -> Result<Option<(Delayed, v1::Shadow)>, Status> {
        let mut named = self.delayed(who);
        named.retain(|(one, _)| one.run == run && (one.policy_name == policy || one.digest.to_string() == policy));
        if named.len() > 1 { Err(ambiguous(policy)) } else { Ok(named.pop()) }
    }

    /// The shadows of an earlier daemon that do not judge yet, as the caller sees them.
    fn delayed(&self, who: &Principal) -> Vec<(Delayed, v1::Shadow)> {
        let seen = self.0.shadows.delayed().into_iter().filter(|one| sees(who, &By::User(one.uid)));
        let shown = seen.filter_map(|one| {
            // Otherwise its run is over, and so is the shadow.
            let found = self.0.registry.of_id(one.run)?;
            let run = found.run();
            let policy = v1::ShadowPolicy {
                name: one.policy_name.clone(),
                version: one.version,
                digest: one.digest.to_string(),
            };
            let shown = v1::Shadow {
                run_id: run.id.to_string(),
                run_name: run.name.clone(),
                owner_uid: run.owner_uid,
                policy: Some(policy),
                since_ns: 0,
                rule: String::new(),
                by_uid: Some(one.uid),
                delayed: one.why.clone(),
            };
            Some((one, shown))
        });
        shown.collect()
    }
}

fn ambiguous(policy: &str) -> Status {
    let why = format!("policy: several shadows of the run are named `{policy}`: expected a digest");
    ErrorReason::InvalidRequest.status(why)
}

fn not_forgotten(error: &std::io::Error) -> Status {
    ErrorReason::StorageUnavailable.status(format!("the shadow is not removed: its file cannot be removed: {error}"))
}

/// Whether the caller sees what was found for somebody. Rules of a policy that not everybody may read are in it.
fn sees(who: &Principal, by: &By) -> bool {
    // A process in a run is at most what the run's owner is to that run, and these are about others too.
    who.sees_all() || who.inside.is_none() && matches!(by, By::User(uid) if *uid == who.uid())
}

fn live(found: FoundRun) -> Result<Arc<LiveRun>, Status> {
    match found {
        FoundRun::Live(live) => Ok(live),
        FoundRun::Guarded(guarded) => Err(not_judged(&guarded)),
        FoundRun::Ended(ended) => Err(has_ended(&ended.run)),
    }
}

async fn answer<T>(wait: Receiver<T>) -> Result<T, Status> {
    let answered = tokio::time::timeout(WAIT, wait).await.map_err(|_| late())?;
    answered.map_err(|_| refused(&Refused::Ended))
}

fn late() -> Status {
    ErrorReason::NotInTime.status(format!("shadows have not caught up within {} s: ask again", WAIT.as_secs()))
}

fn refused(why: &Refused) -> Status {
    let reason = match why {
        Refused::Run(_) | Refused::User(_) | Refused::Users | Refused::Node(_) => ErrorReason::LimitReached,
        Refused::Twice | Refused::InForce => ErrorReason::InvalidRequest,
        Refused::NotLive => ErrorReason::RunNotJudged,
        Refused::Ended => ErrorReason::Internal,
    };
    reason.status(why.to_string())
}

fn policy(Named { name, version, digest }: &Named) -> v1::ShadowPolicy {
    v1::ShadowPolicy { name: name.clone(), version: *version, digest: digest.to_string() }
}

fn for_whom(by: &By) -> (String, Option<u32>) {
    match by {
        By::Rule(rule) => (rule.clone(), None),
        By::User(uid) => (String::new(), Some(*uid)),
    }
}

fn shown(listed: &Listed) -> v1::Shadow {
    let (rule, by_uid) = for_whom(&listed.by);
    v1::Shadow {
        run_id: listed.run.to_string(),
        run_name: listed.run_name.clone(),
        owner_uid: listed.owner_uid,
        policy: Some(v1::ShadowPolicy {
            name: listed.policy_name.clone(),
            version: listed.version,
            digest: listed.digest.to_string(),
        }),
        since_ns: listed.since_ns,
        rule,
        by_uid,
        delayed: String::new(),
    }
}

fn reported(group: &Group) -> v1::ShadowGroup {
    let (rule, by_uid) = for_whom(&group.by);
    let tally: &Tally = &group.tally;
    let mut lacks: Vec<v1::ShadowLack> = Vec::new();
    lacks.extend(
        tally
            .lacks()
            .map(|lack| v1::ShadowLack { rule: lack.rule.clone().unwrap_or_default(), what: lack.what.clone() }),
    );
    lacks.extend(
        tally
            .kept
            .iter()
            .map(|(why, n)| v1::ShadowLack { rule: String::new(), what: format!("{n} verdicts, as they were: {why}") }),
    );
    v1::ShadowGroup {
        enforced: Some(policy(&group.enforced)),
        shadow: Some(policy(&group.shadow)),
        rule,
        by_uid,
        since_ns: group.since_ns,
        runs: tally.runs,
        live: group.live,
        inputs: tally.inputs,
        dropped: tally.dropped,
        beyond: tally.beyond,
        after_contained: tally.after_contained,
        rows: tally.rows().map(|(key, found)| row(key, found)).collect(),
        lacks,
        more_lacks: tally.more_lacks,
        complete: tally.is_complete(),
    }
}

fn without(LeftOut { rule, live, ended, why }: LeftOut) -> v1::ShadowLeftOut {
    v1::ShadowLeftOut { rule, live, ended, why }
}

fn row(key: &Key, row: &Row) -> v1::ShadowRow {
    let examples = Difference::ALL.into_iter().flat_map(|difference| {
        row.examples(difference).map(move |example| v1::ShadowExample {
            difference: difference.name().into(),
            run_id: example.run.to_string(),
            run_name: example.name.clone(),
            at_ns: example.wall_ns,
            by_ns: example.by_ns,
            because: example.text.clone(),
        })
    });
    v1::ShadowRow {
        what: key.what.clone(),
        actions: key.actions.clone(),
        same: row.same,
        only_enforced: row.count(Difference::OnlyEnforced),
        only_shadow: row.count(Difference::OnlyShadow),
        earlier: row.count(Difference::Earlier),
        later: row.count(Difference::Later),
        examples: examples.collect(),
    }
}
