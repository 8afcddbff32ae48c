//! Remote identities: what the gateway says who a request is from, and which methods a role may call.
//!
//! Invariant: a method that is not named here is called by no remote identity.

use crate::config::{RemoteRole, is_identity};
use failsafe_proto::ErrorReason;
use tonic::{
    Request, Status,
    codegen::http::{HeaderMap, HeaderValue},
};

/// The metadata in which the gateway names the identities that a certificate proves, in their order.
const IDENTITY: &str = "failsafe-remote-identity";
/// How identities are proved, for the audit log.
pub const METHOD: &str = "mtls";
/// Identities of one certificate.
const MOST: usize = 16;

/// Methods by the least role that may call them.
const METHODS: [(&str, RemoteRole); 29] = [
    ("/failsafe.v1.AttestationService/GetEgress", RemoteRole::Viewer),
    ("/failsafe.v1.DrillService/Get", RemoteRole::Viewer),
    ("/failsafe.v1.EventService/Watch", RemoteRole::Viewer),
    ("/failsafe.v1.IncidentService/GetIncident", RemoteRole::Viewer),
    ("/failsafe.v1.IncidentService/ListIncidents", RemoteRole::Viewer),
    ("/failsafe.v1.IncidentService/WatchIncidents", RemoteRole::Viewer),
    ("/failsafe.v1.LogService/Follow", RemoteRole::Viewer),
    ("/failsafe.v1.LogService/GetCheckpoint", RemoteRole::Viewer),
    ("/failsafe.v1.LogService/ListEntries", RemoteRole::Viewer),
    ("/failsafe.v1.LogService/ProveConsistency", RemoteRole::Viewer),
    ("/failsafe.v1.LogService/ProveInclusion", RemoteRole::Viewer),
    ("/failsafe.v1.MetricsService/Snapshot", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/Capacity", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/Doctor", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/Health", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/Placeable", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/Reasons", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/Status", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/Usage", RemoteRole::Viewer),
    ("/failsafe.v1.NodeService/WatchSince", RemoteRole::Viewer),
    ("/failsafe.v1.RunService/Get", RemoteRole::Viewer),
    ("/failsafe.v1.RunService/List", RemoteRole::Viewer),
    ("/failsafe.v1.RunService/WatchRuns", RemoteRole::Viewer),
    // Which command a role may give is decided by `Principal::may_act`.
    ("/failsafe.v1.RunService/Control", RemoteRole::Operator),
    ("/failsafe.v1.NodeService/Cordon", RemoteRole::Administrator),
    ("/failsafe.v1.NodeService/Uncordon", RemoteRole::Administrator),
    ("/failsafe.v1.NodeService/ResetHealth", RemoteRole::Administrator),
    ("/failsafe.v1.NodeService/ForgetGpu", RemoteRole::Administrator),
    ("/failsafe.v1.NodeService/SetMode", RemoteRole::Administrator),
];

/// What a request calls, and in whose name. The gate notes it before the body is read: tonic adds the trailers of a request to its
/// metadata, so that a client could write there what the gateway wrote in the headers.
#[derive(Debug, Clone)]
pub struct Called {
    path: String,
    identities: Vec<HeaderValue>,
}

impl Called {
    /// By the head of a request.
    pub fn of(path: &str, headers: &HeaderMap) -> Called {
        let identities = headers.get_all(IDENTITY).iter().take(MOST + 1).cloned().collect();
        Called { path: path.to_owned(), identities }
    }

    /// The identities that it claims; empty: it claims none.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`: what it claims is no identity.
    pub fn identities(&self) -> Result<Vec<String>, Status> {
        let one = |value: &HeaderValue| {
            let text = value.to_str().ok().filter(|text| is_identity(text));
            text.map(str::to_owned)
                .ok_or_else(|| ErrorReason::PermissionDenied.status(format!("{IDENTITY}: no identity")))
        };
        let identities: Vec<String> = self.identities.iter().map(one).collect::<Result<_, _>>()?;
        if identities.len() > MOST {
            return Err(ErrorReason::PermissionDenied.status(format!("{IDENTITY}: more than {MOST} identities")));
        }
        Ok(identities)
    }
}

/// A remote identity with its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its name, such as `dns:ops1.example.org`.
    pub name: String,
    /// Its role.
    pub role: RemoteRole,
}

/// The identities that a request claims; empty: it claims none.
///
/// # Errors
/// `PERMISSION_DENIED`: what it claims is no identity. `INTERNAL`: the gate did not see it.
pub fn claimed<T>(request: &Request<T>) -> Result<Vec<String>, Status> {
    let called = request.extensions().get::<Called>();
    called.ok_or_else(|| ErrorReason::Internal.status("the request came past the gate"))?.identities()
}

/// Whether an identity may call the method that a request calls.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub fn may_call<T>(request: &Request<T>, remote: &Remote) -> Result<(), Status> {
    let called = request.extensions().get::<Called>().map_or("", |called| called.path.as_str());
    let least = METHODS.iter().find(|(path, _)| *path == called).map(|(_, least)| *least);
    let Remote { name, role } = remote;
    match least {
        Some(least) if *role >= least => Ok(()),
        Some(least) => Err(ErrorReason::PermissionDenied
            .status(format!("remote identity {name} has role {role}: {called} needs role {least}"))),
        None => Err(ErrorReason::PermissionDenied
            .status(format!("{called} is for local callers: no remote identity may call it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_proto::DESCRIPTOR;
    use prost::Message;
    use std::collections::BTreeSet;

    fn paths() -> BTreeSet<String> {
        let files = prost_types::FileDescriptorSet::decode(DESCRIPTOR).unwrap().file;
        let methods = files.iter().flat_map(|file| {
            file.service.iter().flat_map(|service| {
                service.method.iter().map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name()))
            })
        });
        methods.collect()
    }

    fn may(role: RemoteRole, path: &str) -> bool {
        let mut request = Request::new(());
        request.extensions_mut().insert(Called::of(path, &HeaderMap::new()));
        may_call(&request, &Remote { name: "dns:a".into(), role }).is_ok()
    }

    #[test]
    fn methods_that_start_runs_or_handle_keys_are_called_by_no_remote_identity() {
        let paths = paths();
        let named: BTreeSet<String> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert!(named.is_subset(&paths), "{:?}", named.difference(&paths));
        for path in &paths {
            assert_eq!(may(RemoteRole::Administrator, path), named.contains(path), "{path}");
        }
        for path in ["RunService/Start", "RunService/Register", "AttestationService/RotateKey", "NodeService/ResetGpu"]
        {
            assert!(!may(RemoteRole::Administrator, &format!("/failsafe.v1.{path}")), "{path}");
        }
        assert!(!may(RemoteRole::Administrator, ""), "a request of which the method is not known");
    }

    #[test]
    fn roles_may_do_what_lesser_roles_may_and_no_more() {
        let count = |role| paths().iter().filter(|path| may(role, path)).count();
        assert_eq!([RemoteRole::Viewer, RemoteRole::Operator, RemoteRole::Administrator].map(count), [23, 24, 29]);
        assert!(!may(RemoteRole::Viewer, "/failsafe.v1.RunService/Control"));
    }

    #[test]
    fn what_is_no_identity_is_refused_and_not_passed_over() {
        let of = |values: &[&str]| {
            let (mut request, mut headers) = (Request::new(()), HeaderMap::new());
            for value in values {
                headers.append(IDENTITY, value.parse().unwrap());
            }
            request.extensions_mut().insert(Called::of("/x", &headers));
            // As tonic does with trailers.
            request.metadata_mut().append(IDENTITY, "email:admin".parse().unwrap());
            claimed(&request).map_err(|status| status.code())
        };
        assert_eq!(of(&[]), Ok(vec![]));
        assert_eq!(of(&["dns:a", "uri:b"]), Ok(vec!["dns:a".into(), "uri:b".into()]));
        for bad in [&["dns:a", ""][..], &["a"], &["dns:a b"], &["dns:a"; MOST + 1]] {
            assert_eq!(of(bad), Err(tonic::Code::PermissionDenied), "{bad:?}");
        }
    }
}
