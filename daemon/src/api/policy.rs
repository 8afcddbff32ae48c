//! `PolicyService`.

use super::Context;
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

/// `PolicyService`.
pub struct Policies(pub Arc<Context>);

impl Policies {
    fn assurances(&self, policy: &Policy) -> Vec<v1::RuleAssurance> {
        let grants = grants(self.0.registry.kernel());
        let broken = assurance::broken(policy, &grants);
        let one = |judged: assurance::RuleAssurance| v1::RuleAssurance {
            broken: broken.contains(&judged),
            effect: judged.effect.name().into(),
            assurance: judged.name().into(),
            rule: judged.rule,
            detail: judged.detail,
        };
        let unwatched = self.0.unwatched(&BTreeSet::new(), &BTreeMap::new());
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
}

#[tonic::async_trait]
impl v1::policy_service_server::PolicyService for Policies {
    /// Open to everybody: it says nothing of any run.
    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckResponse>, Status> {
        self.0.principal(&request)?;
        let v1::CheckRequest { policy_toml, policy_file } = request.into_inner();
        let response = match parse(&policy_file, &policy_toml) {
            Ok(policy) => v1::CheckResponse {
                digest: policy.digest().to_string(),
                refusal: self.0.refusal(&policy, &BTreeSet::new(), &BTreeMap::new()).unwrap_or_default(),
                assurances: self.assurances(&policy),
                name: policy.name,
                errors: Vec::new(),
            },
            Err(wrong) => {
                let one =
                    |d| failsafe_core::policy::diagnostic::Diagnostics { file: wrong.file.clone(), list: vec![d] };
                let errors = wrong.list.iter().cloned().map(|d| one(d).to_string()).collect();
                v1::CheckResponse { errors, ..Default::default() }
            }
        };
        Ok(Response::new(response))
    }
}
