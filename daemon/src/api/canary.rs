//! `CanaryService`.

use super::{
    Context,
    authorize::{Orderer, Principal},
    peer::Peer,
    runs::Asked,
};
use crate::{
    platform::clock,
    policies,
    runs::canaries::{Decided, Kept, New, NotDone},
    watchers::canary::{announce, promote_recorded, withdraw_announced},
};
use failsafe_core::{
    canary::{Arm, BadCriterion, Criterion, Finding, Stage, Terms},
    time::Span,
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tonic::{Request, Response, Status};

/// Most bytes of a reason.
const REASON: usize = 1_000;

/// `CanaryService`.
pub struct CanaryApi(pub Arc<Context>);

#[tonic::async_trait]
impl v1::canary_service_server::CanaryService for CanaryApi {
    async fn start(&self, request: Request<v1::StartCanaryRequest>) -> Result<Response<v1::Canary>, Status> {
        let who = self.0.principal(&request)?;
        let orderer = who.may_use_canaries()?;
        let share = Peer::of(&request)?.share();
        let (context, asked) = (self.0.clone(), request.into_inner());
        let started = self.0.work(share).compile(share, move || start(&context, &who, orderer, asked));
        Ok(Response::new(started.await??))
    }

    async fn list(
        &self,
        request: Request<v1::ListCanariesRequest>,
    ) -> Result<Response<v1::ListCanariesResponse>, Status> {
        self.0.principal(&request)?.may_use_canaries()?;
        let canaries = self.0.registry.canaries();
        Ok(Response::new(v1::ListCanariesResponse {
            canaries: canaries.all().iter().map(shown).collect(),
            problem: canaries.problem().unwrap_or_default(),
        }))
    }

    async fn promote(&self, request: Request<v1::DecideCanaryRequest>) -> Result<Response<v1::Canary>, Status> {
        self.decide(request, promote).await
    }

    async fn withdraw(&self, request: Request<v1::DecideCanaryRequest>) -> Result<Response<v1::Canary>, Status> {
        self.decide(request, withdraw).await
    }
}

impl CanaryApi {
    async fn decide(
        &self,
        request: Request<v1::DecideCanaryRequest>,
        how: fn(&Context, v1::DecideCanaryRequest, Decided) -> Result<v1::Canary, Status>,
    ) -> Result<Response<v1::Canary>, Status> {
        let orderer = self.0.principal(&request)?.may_use_canaries()?;
        let share = Peer::of(&request)?.share();
        let (context, asked) = (self.0.clone(), request.into_inner());
        let decided = decided(orderer, &asked.reason)?;
        let done = self.0.work(share).compile(share, move || how(&context, asked, decided));
        Ok(Response::new(done.await??))
    }
}

fn decided(orderer: Orderer, reason: &str) -> Result<Decided, Status> {
    if reason.trim().is_empty() || reason.len() > REASON {
        return Err(invalid(format!("reason: expected why, in 1 to {REASON} bytes; the audit log keeps it")));
    }
    Ok(Decided { actor: orderer.actor, reason: reason.to_owned(), at_ns: clock::wall_ns() })
}

fn start(
    context: &Context,
    who: &Principal,
    orderer: Orderer,
    asked: v1::StartCanaryRequest,
) -> Result<v1::Canary, Status> {
    let begun = decided(orderer, &asked.reason)?;
    let terms = terms(&asked)?;
    let v1::StartCanaryRequest { name, policy_toml, policy_file, policy_name, .. } = asked;
    let folder = &context.config.policy_dir;
    let in_force = policies::load(folder, &name).map_err(|why| super::policy::refused(&why, who))?;
    let policy = Asked::of(policy_name, policy_file, policy_toml)?.policy(folder, who)?;
    if let Some(why) = context.refusal(&policy, &BTreeSet::new(), &BTreeMap::new()) {
        return Err(ErrorReason::PolicyNotSupported.status(format!("this node does not accept the candidate: {why}")));
    }
    let compiled = context.registry.kernel().compile(&policy);
    compiled
        .map_err(|why| ErrorReason::PolicyNotSupported.status(format!("the candidate does not compile here: {why}")))?;
    let control = in_force.policy.digest();
    if control == policy.digest() {
        return Err(invalid(format!("policy: it is the policy in force of `{name}`: expected another one")));
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| ErrorReason::Internal.status(format!("no random bytes: {error}")))?;
    let kept = Kept::begin(New { name, control, terms, secret, begun }, &policy);
    let announce = |kept: &Kept| announce(&context.log, kept);
    context.registry.canaries().start(kept.clone(), policy, announce).map_err(|why| {
        if matches!(why, NotDone::Store(_)) {
            withdraw_announced(&context.log, &kept);
        }
        not_done(&why)
    })?;
    tracing::info!(policy = kept.name, candidate = kept.candidate_name, "a canary begins");
    Ok(shown(&kept))
}

fn terms(asked: &v1::StartCanaryRequest) -> Result<Terms, Status> {
    let criteria = |field: &str, all: &[String]| -> Result<Vec<Criterion>, Status> {
        let parse = |text: &String| text.parse().map_err(|why: BadCriterion| invalid(format!("{field}: {why}")));
        all.iter().take(failsafe_core::canary::MOST_CRITERIA + 1).map(parse).collect()
    };
    let terms = Terms {
        share_ppm: asked.share_ppm,
        runs_at_least: asked.runs_at_least,
        hold: Span(asked.hold_ms.saturating_mul(1_000_000)),
        promote_if: criteria("promote_if", &asked.promote_if)?,
        withdraw_if: criteria("withdraw_if", &asked.withdraw_if)?,
    };
    terms.check().map_err(|why| invalid(why.to_string()))?;
    Ok(terms)
}

fn promote(context: &Context, asked: v1::DecideCanaryRequest, decided: Decided) -> Result<v1::Canary, Status> {
    let canaries = context.registry.canaries();
    if let Some(kept) = canaries.all().iter().find(|kept| kept.name == asked.name && kept.stage == Stage::Running)
        && let Finding::Wait(why) | Finding::Withdraw(why) = kept.terms.judge(&kept.arms(), kept.held)
        && !kept.terms.promote_if.is_empty()
        && !asked.force
    {
        return Err(ErrorReason::OrderRefused
            .status(format!("the criteria are not met: {why}; promote with --force to do it all the same")));
    }
    let kept = promote_recorded(canaries, &context.log, &asked.name, decided).map_err(|why| not_done(&why))?;
    Ok(shown(&kept))
}

fn withdraw(context: &Context, asked: v1::DecideCanaryRequest, decided: Decided) -> Result<v1::Canary, Status> {
    let withdrawn = context.registry.canaries().withdraw(&asked.name, Stage::Withdrawn, decided);
    let (kept, unstored) = withdrawn.map_err(|why| not_done(&why))?;
    context.log.record(&kept.record(), None, None);
    Ok(v1::Canary { unstored: unstored.unwrap_or_default(), ..shown(&kept) })
}

fn invalid(why: String) -> Status {
    ErrorReason::InvalidRequest.status(why)
}

fn not_done(why: &NotDone) -> Status {
    let reason = match why {
        NotDone::None(_) => ErrorReason::PolicyNotFound,
        NotDone::Stage { .. } => ErrorReason::OrderRefused,
        NotDone::Most => ErrorReason::LimitReached,
        NotDone::Store(_) => ErrorReason::StorageUnavailable,
    };
    reason.status(why.to_string())
}

fn shown(kept: &Kept) -> v1::Canary {
    let texts = |all: &[Criterion]| all.iter().map(ToString::to_string).collect();
    let ms = |span: Span| span.0 / 1_000_000;
    let arm = |Arm { runs, contained, .. }: Arm, live| Some(v1::CanaryArm { runs, live, contained });
    let (seen, live) = (kept.arms(), kept.live());
    let decided = kept.decided.as_ref();
    let finding = match kept.terms.judge(&seen, kept.held) {
        _ if kept.stage != Stage::Running => String::new(),
        Finding::Wait(why) => why,
        Finding::Promote(why) => format!("to be promoted: {why}"),
        Finding::Withdraw(why) => format!("to be withdrawn: {why}"),
    };
    v1::Canary {
        name: kept.name.clone(),
        canary: kept.id.clone(),
        stage: kept.stage.name().into(),
        control_digest: kept.control.to_string(),
        candidate_digest: kept.candidate.to_string(),
        candidate_name: kept.candidate_name.clone(),
        share_ppm: kept.terms.share_ppm,
        runs_at_least: kept.terms.runs_at_least,
        hold_ms: ms(kept.terms.hold),
        promote_if: texts(&kept.terms.promote_if),
        withdraw_if: texts(&kept.terms.withdraw_if),
        since_ns: kept.since_ns,
        begun_by: kept.begun.actor.to_string(),
        begun_reason: kept.begun.reason.clone(),
        decided_ns: decided.map_or(0, |decided| decided.at_ns),
        decided_by: decided.map(|decided| decided.actor.to_string()).unwrap_or_default(),
        decided_reason: decided.map(|decided| decided.reason.clone()).unwrap_or_default(),
        candidate: arm(seen.candidate, live.0),
        control: arm(seen.control, live.1),
        held_ms: ms(kept.held),
        finding,
        unstored: String::new(),
    }
}
