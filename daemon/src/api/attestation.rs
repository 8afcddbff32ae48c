//! `AttestationService`: fingerprints of the node and of runs, signed statements about them, and the node's keys.
//!
//! Invariants: a fingerprint is read on a thread of its own within the limit `attestations`; a statement is signed by the key
//! that it names; what only administrators may read of the node is `denied` in an owner's statement, not left out.

use super::{
    Context,
    authorize::{Orderer, Principal},
    egress,
    health::reason,
    limits::{Limit, Quota, Share, Usage},
    manifest,
    peer::Peer,
    stored,
};
use crate::{
    attest::{NodeFacts, RunFacts, Sealing, StatedOf, Worker, hide_identity, stated, tpm_facts_of},
    config::Config,
    platform::clock,
    runs::FoundRun,
    signing::{KeyError, NodeKey, SigningKeys},
    tpm::{NoTpm, NodeTpm},
};
use failsafe_attest::{
    Fact, Manifest, SOFTWARE_KEY, Scope, Table, TpmKey,
    statement::{DigestOf, MAX_NONCE},
    tpm::TPM_KEY,
};
use failsafe_core::{policy::diagnostic::Diagnostics, record::Record};
use failsafe_proto::{ErrorReason, v1};
use failsafe_tpm::{Credential, Endorsement, Endorsements};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tonic::{Request, Response, Status};

/// Fingerprints that are read at once.
const ATTESTATIONS: Quota = Quota { per_user: 1, total: 4, reserve: 4 };

/// What the service needs beside the daemon's [`Context`].
pub struct Attestor {
    pub(super) worker: Arc<Worker>,
    keys: Arc<SigningKeys>,
    tpm: Arc<NodeTpm>,
    pub(super) table: Arc<Table>,
    limit: Arc<Limit>,
    reading: Arc<Reading>,
}

impl Attestor {
    /// With the node's keys and its TPM.
    ///
    /// # Errors
    /// The built-in table of factors is broken; no build that passed its tests has such a table.
    pub fn new(config: &Config, keys: Arc<SigningKeys>, tpm: Arc<NodeTpm>) -> Result<Attestor, Diagnostics> {
        Ok(Attestor {
            worker: Arc::new(Worker::new(config.redact.clone())),
            keys,
            tpm,
            table: Arc::new(Table::built_in()?),
            limit: Limit::new("attestations", ATTESTATIONS),
            reading: Arc::default(),
        })
    }

    /// What is used of the limit.
    pub(super) fn usage(&self) -> Usage {
        self.limit.usage()
    }
}

/// Runs that are being read, each for a user (false) or for an administrator.
type Reading = Mutex<BTreeSet<(String, bool)>>;

/// A run that is being read. A run whose processes do not answer holds one place of the users' and one of the administrators', and
/// not all of them.
struct Place {
    reading: Arc<Reading>,
    of: (String, bool),
}

impl Place {
    fn take(reading: &Arc<Reading>, run: &str, share: Share) -> Result<Place, Status> {
        let of = (run.to_owned(), share.is_reserved());
        if !reading.lock().unwrap_or_else(PoisonError::into_inner).insert(of.clone()) {
            return Err(ErrorReason::LimitReached.status(format!(
                "limit `attestations`: run {run} is being read already; if that does not end, a process or a file system of the run \
                 does not answer"
            )));
        }
        Ok(Place { reading: reading.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.of);
    }
}

/// `AttestationService`.
pub struct Attestations(pub Arc<Context>);

#[tonic::async_trait]
impl v1::attestation_service_server::AttestationService for Attestations {
    async fn get_fingerprint(
        &self,
        request: Request<v1::FingerprintRequest>,
    ) -> Result<Response<v1::FingerprintResponse>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let v1::FingerprintRequest { run } = request.into_inner();
        let whole = !run.is_empty() || who.may_attest_node().is_ok();
        let (stated_of, mut facts) = self.facts(&who, share, &run).await?;
        let (table, tpm) = (self.0.attestor.table.clone(), self.0.attestor.tpm.clone());
        let made = self.0.work(share).read(share, move || {
            facts.extend(tpm_facts_of(&tpm));
            let statement = stated(facts, &table, stated_of, None, &[]);
            let payload = statement.payload().map_err(|error| ErrorReason::Internal.status(error.to_string()))?;
            Ok::<_, Status>((statement.predicate.digests, payload))
        });
        let (digests, payload) = made.await??;
        let digest =
            |of: &DigestOf| v1::FingerprintDigest { digest: format!("sha256:{}", of.sha256), unknown: of.unknown };
        Ok(Response::new(v1::FingerprintResponse {
            result: Some(digest(&digests.result)),
            performance: whole.then(|| digest(&digests.performance)),
            full: whole.then(|| digest(&digests.full)),
            statement: if whole { payload.into_bytes() } else { Vec::new() },
        }))
    }

    async fn attest(&self, request: Request<v1::AttestRequest>) -> Result<Response<v1::AttestResponse>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let v1::AttestRequest { run, nonce, at } = request.into_inner();
        if !at.is_empty() {
            return stored::get(&self.0, &who, share, (&run, &nonce, &at)).await.map(Response::new);
        }
        if run.is_empty() {
            who.may_attest_node()?;
        }
        if nonce.len() > MAX_NONCE {
            let message = format!("nonce: it has {} bytes, expected at most {MAX_NONCE}", nonce.len());
            return Err(ErrorReason::InvalidRequest.status(message));
        }
        // Before the work: without a key it is for nothing.
        let signer = self.0.attestor.keys.signer().map_err(|error| no_key(&error))?;
        let (stated_of, facts) = self.facts(&who, share, &run).await?;
        let (table, tpm) = (self.0.attestor.table.clone(), self.0.attestor.tpm.clone());
        let sealed = self.0.work(share).read(share, move || {
            let sealing = Sealing { signer: &signer, tpm: &tpm, table: &table, of: stated_of, nonce: &nonce };
            sealing.seal(facts, |statement| statement)
        });
        let envelope = sealed.await?.map_err(|error| ErrorReason::Internal.status(error.to_string()))?;
        Ok(Response::new(v1::AttestResponse { envelope: envelope.into_bytes() }))
    }

    async fn set_manifest(
        &self,
        request: Request<v1::SetManifestRequest>,
    ) -> Result<Response<v1::SetManifestResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        manifest::set(&self.0, &who, share, request.into_inner()).await.map(Response::new)
    }

    async fn get_manifest(
        &self,
        request: Request<v1::GetManifestRequest>,
    ) -> Result<Response<v1::GetManifestResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        manifest::get(&self.0, &who, share, request.into_inner()).await.map(Response::new)
    }

    async fn add_checkpoint(
        &self,
        request: Request<v1::AddCheckpointRequest>,
    ) -> Result<Response<v1::AddCheckpointResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        manifest::add(&self.0, &who, share, request.into_inner()).await.map(Response::new)
    }

    async fn get_egress(
        &self,
        request: Request<v1::GetEgressRequest>,
    ) -> Result<Response<v1::GetEgressResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        egress::get(&self.0, &who, share, request.into_inner()).await.map(Response::new)
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        // Certificates identify the node, as serial numbers do.
        let identity = self.0.principal(&request)?.may_attest_node().is_ok();
        let share = Peer::of(&request)?.share();
        let keys = self.0.attestor.keys.listed().map_err(|error| no_key(&error))?;
        let tpm = self.0.attestor.tpm.clone();
        let of_tpm =
            self.0.work(share).read(share, move || tpm.key().map(|key| (key, identity.then(|| tpm.endorsements()))));
        let (of_tpm, no_tpm, no_endorsement) = match of_tpm.await? {
            Ok((key, endorsements)) => {
                let (found, why) = endorsements_of(endorsements);
                (Some(tpm_key(&key, found)), String::new(), why)
            }
            Err(why) => (None, why.to_string(), String::new()),
        };
        let keys = keys.iter().map(node_key).chain(of_tpm).collect();
        Ok(Response::new(v1::ListKeysResponse { keys, no_tpm, no_endorsement }))
    }

    async fn activate_key(
        &self,
        request: Request<v1::ActivateKeyRequest>,
    ) -> Result<Response<v1::ActivateKeyResponse>, Status> {
        self.0.principal(&request)?.may_attest_node()?;
        let share = Peer::of(&request)?.share();
        let credential = Credential::parse(&request.into_inner().credential).map_err(|error| {
            let expected = "expected a file of tpm2_makecredential";
            ErrorReason::InvalidRequest.status(format!("credential: {error}; {expected}"))
        })?;
        let attestor = &self.0.attestor;
        // It takes the TPM for seconds.
        let permit = attestor.limit.take(share);
        let permit = permit.map_err(|exceeded| ErrorReason::LimitReached.status(exceeded.to_string()))?;
        let tpm = attestor.tpm.clone();
        let secret = self.0.work(share).read(share, move || {
            let _permit = permit;
            tpm.activate(credential)
        });
        let secret = secret.await?.map_err(|why| ErrorReason::StatementUnavailable.status(why.to_string()))?;
        Ok(Response::new(v1::ActivateKeyResponse { secret }))
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::RotateKeyResponse>, Status> {
        let Orderer { by, actor } = self.0.principal(&request)?.may_rotate_key()?;
        let share = Peer::of(&request)?.share();
        let why = reason(request.into_inner().reason)?;
        let (keys, log, folder) = (self.0.attestor.keys.clone(), self.0.log.clone(), self.0.config.state_dir.clone());
        let rotated = self.0.work(share).read(share, move || {
            let old = keys.signer()?.public();
            let key = crate::log::rotate(&keys, &folder, clock::wall_ns())?;
            let (keyid, retired) = (key.public.id().0, old.id().0);
            log.record(&Record::KeyRotated { keyid, retired, by, actor, why }, None, None);
            Ok::<_, KeyError>(key)
        });
        let key = rotated.await?.map_err(|error| no_key(&error))?;
        Ok(Response::new(v1::RotateKeyResponse { key: Some(node_key(&key)) }))
    }
}

impl Attestations {
    /// The facts of the node, or of a run that the caller may see.
    async fn facts(&self, who: &Principal, share: Share, run: &str) -> Result<(StatedOf, Vec<Fact>), Status> {
        let of_run = if run.is_empty() { None } else { Some(self.run_facts(who, run)?) };
        let scope = if of_run.is_some() { Scope::Run } else { Scope::Node };
        let claimed = match of_run.as_ref().and_then(|run| run.id.parse().ok()) {
            Some(id) => {
                let log = self.0.log.path().to_owned();
                self.0.work(share).read(share, move || manifest::claims(&log, id)).await??.manifest
            }
            None => None,
        };
        let attestor = &self.0.attestor;
        let place = of_run.as_ref().map(|run| Place::take(&attestor.reading, &run.id, share)).transpose()?;
        let permit =
            attestor.limit.take(share).map_err(|exceeded| ErrorReason::LimitReached.status(exceeded.to_string()))?;
        let permit = (permit, place);
        let about = NodeFacts { with_ima: who.may_attest_node().is_ok(), ..self.0.node_facts() };
        let asked = attestor.worker.start(about, of_run, permit);
        let asked =
            asked.map_err(|error| ErrorReason::LimitReached.status(format!("no thread for the readers: {error}")))?;
        let mut facts = asked.facts().await;
        if scope == Scope::Run && who.may_attest_node().is_err() {
            hide_identity(&mut facts, &attestor.table);
        }
        let claimed = claimed.map(|(manifest, _)| manifest);
        facts.extend(claimed.iter().flat_map(Manifest::facts));
        let regime = claimed.and_then(|manifest| manifest.regime);
        Ok((StatedOf { scope, regime, taken_ns: clock::wall_ns() }, facts))
    }

    fn run_facts(&self, who: &Principal, wanted: &str) -> Result<RunFacts, Status> {
        let (found, _) = self.0.find(who, wanted)?;
        let cgroup = match &found {
            FoundRun::Live(live) => live.cgroup.unopened(),
            FoundRun::Guarded(guarded) => match &guarded.cgroup {
                Some(cgroup) => cgroup.unopened(),
                None => return Err(ErrorReason::CgroupUnusable.status("the cgroup of the run is not known")),
            },
            FoundRun::Ended(ended) => {
                return Err(ErrorReason::RunEnded.status(format!(
                    "run `{}` ({}) has ended: a statement is made of the processes of a live run; stored ones are those `at` its \
                     start, its incidents and its end",
                    ended.run.name, ended.run.id
                )));
            }
        };
        Ok(RunFacts::of(found.run(), cgroup, &self.0.attestor.table))
    }
}

fn no_key(error: &KeyError) -> Status {
    ErrorReason::StatementUnavailable.status(error.to_string())
}

fn node_key(key: &NodeKey) -> v1::NodeKey {
    v1::NodeKey {
        keyid: key.public.id().0,
        public_key: key.public.bytes().to_vec(),
        kind: SOFTWARE_KEY.to_owned(),
        created_ns: key.created_ns,
        retired_ns: key.retired_ns.unwrap_or(0),
        endorsements: Vec::new(),
    }
}

/// The certificates of a TPM, and why there are none, or not all of them.
fn endorsements_of(asked: Option<Result<Endorsements, NoTpm>>) -> (Vec<v1::EndorsementCertificate>, String) {
    let Endorsements { found, unread } = match asked {
        Some(Ok(all)) => all,
        Some(Err(why)) => return (Vec::new(), why.to_string()),
        None => return (Vec::new(), "only root and the administrators' group read it".to_owned()),
    };
    let why = match (found.is_empty(), unread.is_empty()) {
        (true, true) => "the TPM has no certificate of an endorsement key in its NV memory".to_owned(),
        _ => unread
            .iter()
            .map(|(index, kind, why)| format!("NV index {index:#010x} ({kind}): {why}"))
            .collect::<Vec<_>>()
            .join("; "),
    };
    let one = |Endorsement { index, kind, certificate }: Endorsement| v1::EndorsementCertificate {
        nv_index: index,
        kind: kind.to_owned(),
        certificate,
    };
    (found.into_iter().map(one).collect(), why)
}

fn tpm_key(key: &TpmKey, endorsements: Vec<v1::EndorsementCertificate>) -> v1::NodeKey {
    v1::NodeKey {
        keyid: key.id().0,
        public_key: key.area().to_vec(),
        kind: TPM_KEY.to_owned(),
        created_ns: 0,
        retired_ns: 0,
        endorsements,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_tpm::{TpmError, wire::WireError};

    #[test]
    fn a_certificate_that_cannot_be_read_is_named_beside_the_others() {
        let source = WireError::TooLarge { what: "the size of a certificate", found: 5_000, most: 4_096 };
        let error = TpmError::Answer { command: "TPM2_NV_ReadPublic", source };
        let found = vec![Endorsement { index: 0x01c0_0002, kind: "RSA 2048", certificate: vec![1] }];
        let all = Endorsements { found, unread: vec![(0x01c0_000a, "ECC P-256", error)] };
        let (found, why) = endorsements_of(Some(Ok(all)));
        assert_eq!(found.len(), 1);
        assert!(why.starts_with("NV index 0x01c0000a (ECC P-256): ") && why.contains("5000"), "{why}");
        let (found, why) = endorsements_of(Some(Ok(Endorsements::default())));
        assert!(found.is_empty() && why.contains("has no certificate"), "{why}");
    }

    #[test]
    fn a_run_that_does_not_answer_holds_one_place_of_the_users_and_one_of_the_administrators() {
        let reading = Arc::default();
        let (user, root) = (Share::User(7), Share::Reserved(0));
        let held = [Place::take(&reading, "a", user).unwrap(), Place::take(&reading, "a", root).unwrap()];
        for share in [user, root, Share::User(8)] {
            let refused = Place::take(&reading, "a", share).err().unwrap();
            assert!(refused.message().contains("is being read already"), "{refused}");
        }
        let _other = Place::take(&reading, "b", user).unwrap();
        drop(held);
        assert!(Place::take(&reading, "a", root).is_ok());
    }
}
