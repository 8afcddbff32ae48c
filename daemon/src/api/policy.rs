//! `PolicyService`.

use super::{Context, peer::Peer};
use crate::runs::grants::grants;
use failsafe_core::{
    Policy,
    policy::{assurance, check, parse::parse},
};
use failsafe_proto::v1;
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
}
