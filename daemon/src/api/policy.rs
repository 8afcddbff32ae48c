//! `PolicyService`.

use super::Context;
use failsafe_core::policy::{check, parse::parse};
use failsafe_proto::v1;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// `PolicyService`.
pub struct Policies(pub Arc<Context>);

#[tonic::async_trait]
impl v1::policy_service_server::PolicyService for Policies {
    /// Open to everybody: it says nothing of any run.
    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckResponse>, Status> {
        self.0.authority.principal(&request)?;
        let v1::CheckRequest { policy_toml, policy_file } = request.into_inner();
        let response = match parse(&policy_file, &policy_toml) {
            Ok(policy) => v1::CheckResponse {
                digest: policy.digest().to_string(),
                refusal: check::refusal(&policy, &self.0.blind()).unwrap_or_default(),
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
