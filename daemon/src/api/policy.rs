//! `PolicyService`.

use super::{Context, authorize::Principal, peer::Peer};
use crate::{
    policies::{self, NamedError},
    runs::grants::grants,
};
use failsafe_core::{
    Policy,
    policy::{assurance, check, parse::parse},
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tonic::{Request, Response, Status};

/// Mistakes that an answer names; the rest are counted.
const ERRORS: usize = 100;

/// `PolicyService`.
pub struct Policies(pub Arc<Context>);

fn assurances(context: &Context, policy: &Policy) -> Vec<v1::RuleAssurance> {
    let grants = grants(context.registry.kernel());
    let broken = assurance::broken(policy, &grants);
    let one = |judged: assurance::RuleAssurance| v1::RuleAssurance {
        broken: broken.contains(&judged),
        effect: judged.effect.name().into(),
        assurance: judged.name().into(),
        rule: judged.rule,
        detail: judged.detail,
    };
    let unwatched = context.unwatched(&BTreeSet::new(), &BTreeMap::new());
    let unseen = policy.rules.iter().flat_map(|rule| {
        check::lacks(rule, &unwatched).map(|(kind, reason)| v1::RuleAssurance {
            rule: rule.id.clone(),
            effect: rule.effect.name().into(),
            assurance: "not seen".into(),
            detail: format!("{kind}: {reason}"),
            broken: true,
        })
    });
    assurance::assess(policy, &grants).into_iter().map(one).chain(unseen).collect()
}

#[tonic::async_trait]
impl v1::policy_service_server::PolicyService for Policies {
    /// Open to everybody: it says nothing of any run.
    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckResponse>, Status> {
        self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let v1::CheckRequest { policy_toml, policy_file } = request.into_inner();
        let context = self.0.clone();
        let response = self.0.work(share).compile(share, move || match parse(&policy_file, &policy_toml) {
            Ok(policy) => v1::CheckResponse {
                digest: policy.digest().to_string(),
                refusal: context.refusal(&policy, &BTreeSet::new(), &BTreeMap::new()).unwrap_or_default(),
                assurances: assurances(&context, &policy),
                name: policy.name,
                errors: Vec::new(),
            },
            Err(wrong) => v1::CheckResponse { errors: wrong.texts(ERRORS), ..Default::default() },
        });
        let response = response.await?;
        Ok(Response::new(response))
    }

    /// Open to everybody: a user has to know what may be named.
    async fn list(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let folder = self.0.config.policy_dir.clone();
        let response = self.0.work(share).compile(share, move || {
            let shown = folder.display().to_string();
            match policies::list(&folder) {
                Ok((all, more)) => v1::ListPoliciesResponse {
                    folder: shown,
                    policies: all.into_iter().map(|(name, found)| named(name, found.as_ref(), &who)).collect(),
                    error: String::new(),
                    more: u32::try_from(more).unwrap_or(u32::MAX),
                },
                Err(why) => v1::ListPoliciesResponse { folder: shown, error: why.to_string(), ..Default::default() },
            }
        });
        Ok(Response::new(response.await?))
    }

    async fn show(&self, request: Request<v1::ShowPolicyRequest>) -> Result<Response<v1::ShowPolicyResponse>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let (folder, name) = (self.0.config.policy_dir.clone(), request.into_inner().name);
        let found = self.0.work(share).compile(share, move || policies::load(&folder, &name));
        let found = found.await?.map_err(|why| refused(&why, &who))?;
        who.may_read_policy(found.public)?;
        let policy = Some(named(found.name.clone(), Ok(&found), &who));
        let path = found.path.display().to_string();
        Ok(Response::new(v1::ShowPolicyResponse { policy, path, toml: found.text }))
    }
}

/// A named policy that cannot be used, as an answer.
pub(super) fn refused(why: &NamedError, who: &Principal) -> Status {
    let text = error_text(why, who);
    match why {
        NamedError::BadName(_) | NamedError::Invalid { .. } => ErrorReason::PolicyInvalid.status(text),
        NamedError::None { .. } => ErrorReason::PolicyNotFound.status(text),
        NamedError::NotTrusted { .. } | NamedError::Read { .. } => ErrorReason::PolicyUnusable.status(text),
    }
}

/// The error, without the lines of a file that the caller may not read.
fn error_text(why: &NamedError, who: &Principal) -> String {
    match why {
        NamedError::Invalid { public, .. } if who.may_read_policy(*public).is_err() => {
            "it is no valid policy; its file is not readable for every user, so an administrator has to look".into()
        }
        why => why.to_string(),
    }
}

fn named(name: String, found: Result<&policies::NamedPolicy, &NamedError>, who: &Principal) -> v1::NamedPolicy {
    match found {
        Ok(found) if who.may_read_policy(found.public).is_err() => {
            let error = "for administrators only: its file is not readable for every user".into();
            v1::NamedPolicy { name, error, ..Default::default() }
        }
        Ok(found) => v1::NamedPolicy {
            name,
            digest: found.policy.digest().to_string(),
            policy: format!("{} v{}", found.policy.name, found.policy.version),
            description: found.policy.description.clone(),
            rules: u32::try_from(found.policy.rules.len()).unwrap_or(u32::MAX),
            error: String::new(),
        },
        Err(why) => v1::NamedPolicy { name, error: error_text(why, who), ..Default::default() },
    }
}
