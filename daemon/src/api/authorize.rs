//! Who may do what: the one place where that is decided.
//!
//! Root and the administrators' group may do everything. A run's owner may see it, freeze it, and thaw what nobody else froze. Anybody may start a run
//! of their own. Others read nothing. Who is inside a run, root too, is at most its owner and starts none: it would leave the
//! bounds that it is in.
//!
//! Invariant: a request is judged by what the process that sent it is when the request is handled. It is the process that
//! connected (by pidfd), it is alive, it has the user that it connected with, and its groups and its cgroup are read then. Only
//! [`Authority::reader`] takes groups and cgroup of a moment ago.

use super::{
    caller::Caller,
    connection::Maker,
    limits::Share,
    remote::{self, Called, Remote},
};
use crate::{
    config::{Gateway, RemoteRole, Roles},
    platform::{
        ProcFs,
        peer::{Now, Peer, PeerError, Sender},
        peercred, users,
    },
    runs::Registry,
};
use failsafe_core::{
    RunId,
    actor::{Actor, LocalPeer, OWNER},
    input::{Command, Run},
};
use failsafe_proto::ErrorReason;
use nix::sys::socket::UnixCredentials;
use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};
use tonic::{Request, Status};

/// What a principal may be to a run or to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Root, or of the administrators' group.
    Admin,
    /// The user that the run belongs to.
    Owner,
    /// A remote identity that may freeze.
    Operator,
    /// A remote identity that may read.
    Viewer,
}

impl Role {
    /// The name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Owner => OWNER,
            Role::Operator => "operator",
            Role::Viewer => "viewer",
        }
    }
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The process, as it was when its request was authenticated.
    pub process: LocalPeer,
    /// Whether it is root or of the administrators' group, and in no run; or a remote administrator.
    pub admin: bool,
    /// The run that it is in.
    pub inside: Option<RunId>,
    /// Whether it is the gateway, which asks for itself.
    pub gateway: bool,
    /// Whether it is the gateway, and may read the audit log.
    pub notifies: bool,
    /// For whom the gateway asks.
    pub remote: Option<Remote>,
}

/// In whose name an order about health stands on record.
#[derive(Debug, Clone)]
pub struct Orderer {
    /// In words, with the role.
    pub by: String,
    /// Who asked.
    pub actor: Actor,
}

/// Knows the administrators' group, and which process is the gateway.
#[derive(Debug, Clone)]
pub struct Authority {
    admin_gid: Option<u32>,
    gateway: Option<GatewayProcess>,
    /// A reload replaces them.
    roles: Arc<RwLock<Roles>>,
}

/// By what the gateway is known.
#[derive(Debug, Clone)]
struct GatewayProcess {
    uid: u32,
    cgroup: PathBuf,
    notifies: bool,
}

impl GatewayProcess {
    fn new(config: &Gateway) -> Option<GatewayProcess> {
        if config.user.is_empty() {
            return None;
        }
        let uid = match users::user_id(&config.user) {
            Ok(Some(uid)) if uid != 0 => uid,
            Ok(_) => {
                let user = &config.user;
                tracing::warn!(user, "gateway.user: there is no such user, or it is root: no process is the gateway");
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "gateway.user cannot be looked up: no process is the gateway");
                return None;
            }
        };
        Some(GatewayProcess { uid, cgroup: config.cgroup.clone(), notifies: config.notifications })
    }

    /// Whether this is the gateway: its user, with every thread in its cgroup.
    fn is(&self, now: &Now) -> bool {
        now.uid == self.uid
            && !now.cgroups.is_empty()
            && now.cgroups.iter().all(|cgroup| cgroup.starts_with(&self.cgroup))
    }
}

impl Authority {
    /// Looks the group and the gateway's user up; a host without the group has only root.
    pub fn new(group: &str, gateway: &Gateway, roles: Roles) -> Authority {
        let admin_gid = users::group_id(group).unwrap_or_else(|error| {
            tracing::warn!(group, %error, "the administrators' group cannot be looked up: only root may act");
            None
        });
        Authority { admin_gid, gateway: GatewayProcess::new(gateway), roles: Arc::new(RwLock::new(roles)) }
    }

    /// From the next request on, remote identities have these roles.
    pub fn set_roles(&self, roles: Roles) {
        *self.roles.write().unwrap_or_else(PoisonError::into_inner) = roles;
    }

    /// The caller of a request, as it is now. A remote identity is believed of nobody but the gateway.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` where it cannot be known who calls and from where; `PERMISSION_DENIED` where another process than the
    /// one that connected uses the connection.
    pub fn principal<T>(&self, request: &Request<T>, runs: &Registry) -> Result<Principal, Status> {
        let caller = self.look(own(maker(request)?)?, runs)?;
        self.in_whose_name(request, &caller)
    }

    /// The same for a request that reads what is the same for all who may read it, and changes nothing: the caller may be as it was
    /// found a moment ago on this connection ([`Recent`](super::caller::Recent)).
    ///
    /// # Errors
    /// As [`Authority::principal`].
    pub fn reader<T>(&self, request: &Request<T>, runs: &Registry) -> Result<Principal, Status> {
        let maker = maker(request)?;
        let peer = own(maker)?;
        let glance = peer.glance().map_err(|why| unknown(&why))?;
        let caller = maker.recent().caller(glance, Instant::now(), || self.look(peer, runs))?;
        self.in_whose_name(request, &caller)
    }

    /// What the process is now.
    fn look(&self, peer: &Peer, runs: &Registry) -> Result<Caller, Status> {
        let now = peer.now(runs.root()).map_err(|why| unknown(&why))?;
        let inside = now.cgroups.iter().find_map(|cgroup| runs.inside(cgroup));
        let admin = inside.is_none() && (now.uid == 0 || self.in_group(&now));
        let id = peer.id();
        let process = LocalPeer {
            uid: now.uid,
            gid: Some(now.gid),
            pid: Some(id.pid),
            start_ticks: Some(id.start_time),
            cgroup: now.cgroups.first().map(|main| main.display().to_string()),
        };
        let known = self.gateway.as_ref().filter(|gateway| inside.is_none() && gateway.is(&now));
        Ok(Caller {
            process,
            admin,
            inside,
            gateway: known.is_some(),
            notifies: known.is_some_and(|gateway| gateway.notifies),
        })
    }

    /// The caller, or the remote identity in whose name it asks.
    fn in_whose_name<T>(&self, request: &Request<T>, caller: &Caller) -> Result<Principal, Status> {
        let Caller { process, admin, inside, gateway, notifies } = caller.clone();
        let identities = remote::claimed(request)?;
        if identities.is_empty() {
            return Ok(Principal { process, admin, inside, gateway, notifies, remote: None });
        }
        if !gateway {
            return Err(denied(
                "only the gateway may ask in the name of a remote identity; the caller is not the process that `gateway.user` and \
                 `gateway.cgroup` of failsafed.toml describe",
            ));
        }
        let remote = self.remote(&identities)?;
        remote::may_call(request, &remote)?;
        let admin = remote.role == RemoteRole::Administrator;
        Ok(Principal { process, admin, inside: None, gateway: false, notifies: false, remote: Some(remote) })
    }

    /// The first of the identities that has a role.
    fn remote(&self, identities: &[String]) -> Result<Remote, Status> {
        let roles = self.roles.read().unwrap_or_else(PoisonError::into_inner);
        let found = roles.first(identities).map(|(name, role)| Remote { name: name.to_owned(), role });
        found.ok_or_else(|| denied(&format!("no role is given to {} (gateway.roles)", identities.join(", "))))
    }

    /// In which share of the limits a new connection is counted. What it may do is decided later, for each request.
    pub fn share(&self, peer: &UnixCredentials, stream: &UnixStream, runs: &Registry) -> Share {
        let in_group = |admin| peer.gid() == admin || peercred::groups(stream).is_ok_and(|all| all.contains(&admin));
        let admin = peer.uid() == 0 || self.admin_gid.is_some_and(in_group);
        let cgroup = || ProcFs::default().cgroup(u32::try_from(peer.pid()).ok()?).ok().flatten();
        // Root inside a run gets no reserve.
        if admin && cgroup().is_some_and(|cgroup| runs.inside(&cgroup).is_none()) {
            return Share::Reserved(peer.uid());
        }
        Share::User(peer.uid())
    }

    /// Whether the gateway makes a new connection. What it may do is decided later, for each request.
    pub fn is_gateway(&self, peer: &UnixCredentials, runs: &Registry) -> bool {
        let Some(gateway) = self.gateway.as_ref().filter(|gateway| gateway.uid == peer.uid()) else { return false };
        let pid = u32::try_from(peer.pid()).ok();
        let cgroup = pid.and_then(|pid| ProcFs::default().cgroup(pid).ok().flatten());
        cgroup.is_some_and(|cgroup| cgroup.starts_with(&gateway.cgroup) && runs.inside(&cgroup).is_none())
    }

    /// The remote identity for which a request of the gateway counts: the first with a role, as in [`Authority::principal`].
    pub fn identity(&self, called: &Called) -> Option<String> {
        let identities = called.identities().ok()?;
        let roles = self.roles.read().unwrap_or_else(PoisonError::into_inner);
        roles.first(&identities).map(|(name, _)| name.to_owned())
    }

    fn in_group(&self, now: &Now) -> bool {
        self.admin_gid.is_some_and(|admin| now.groups.contains(&admin))
    }
}

/// Who made the connection that a request came by.
///
/// # Errors
/// `UNAUTHENTICATED`: it did not come by the control socket.
pub fn maker<T>(request: &Request<T>) -> Result<&Maker, Status> {
    request.extensions().get().ok_or_else(|| ErrorReason::CallerUnknown.status("the socket gives no peer credentials"))
}

/// The process that made a connection, where nobody else has sent on it.
fn own(maker: &Maker) -> Result<&Peer, Status> {
    let peer = maker.peer().map_err(unknown)?;
    match maker.foreign() {
        Some(sender) => Err(foreign(peer, sender)),
        None => Ok(peer),
    }
}

fn unknown(why: &PeerError) -> Status {
    ErrorReason::CallerUnknown.status(why.chain())
}

fn foreign(peer: &Peer, sender: Sender) -> Status {
    let sender = match sender {
        Sender::Pid(pid) => format!("process {pid}"),
        Sender::Unknown => "an unknown process".into(),
    };
    denied(&format!(
        "process {} made this connection and {sender} sends on it: each process has to make its own connection",
        peer.id().pid
    ))
}

impl Principal {
    /// Its user id.
    pub fn uid(&self) -> u32 {
        self.process.uid
    }

    /// As who asks, for the record.
    pub fn actor(&self) -> Actor {
        match &self.remote {
            Some(remote) => Actor::Remote { name: remote.name.clone(), method: remote::METHOD.to_owned() },
            None => Actor::Local(self.process.clone()),
        }
    }

    /// Whether the caller may read of all runs and of the node.
    pub fn sees_all(&self) -> bool {
        self.admin || self.remote.is_some()
    }

    /// Whether the caller may read every entry of the audit log.
    pub fn reads_log(&self) -> bool {
        self.sees_all() || self.notifies
    }

    /// What the caller is to the node.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn on_node(&self) -> Result<Role, Status> {
        if self.remote.is_some() {
            return Ok(Role::Viewer);
        }
        self.admin_to("read this").map(|()| Role::Admin)
    }

    /// Whether the caller may read what monitoring is given of the node and of all runs.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_read_metrics(&self) -> Result<(), Status> {
        if self.gateway || self.remote.is_some() {
            Ok(())
        } else {
            self.admin_to("read the metrics of the node; the gateway may too")
        }
    }

    /// Whether the caller may change the health of the node, and the name for the audit log.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_order(&self) -> Result<Orderer, Status> {
        self.admin_to("cordon, uncordon and reset")?;
        Ok(self.orderer())
    }

    fn orderer(&self) -> Orderer {
        let actor = self.actor();
        Orderer { by: format!("{actor} ({})", Role::Admin.name()), actor }
    }

    /// Who has the node observe, or enforce again.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_set_mode(&self) -> Result<Orderer, Status> {
        self.admin_to("change the mode of the node")?;
        Ok(self.orderer())
    }

    /// Who has the node do a drill.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_drill(&self) -> Result<Orderer, Status> {
        self.admin_to("have the node do a drill (drill now)")?;
        Ok(self.orderer())
    }

    /// Whether the caller may have policies judged beside the one of a run to which it has this role. It does not change the run.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_shadow(&self, role: Role) -> Result<(), Status> {
        if role == Role::Admin || role == Role::Owner && self.inside.is_none() && self.remote.is_none() {
            return Ok(());
        }
        self.admin_to("have a policy judged beside that of a run; a run's owner may from outside of it")
    }

    /// Who starts, sees, promotes and withdraws canaries.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_use_canaries(&self) -> Result<Orderer, Status> {
        self.admin_to("start, see, promote and withdraw canaries")?;
        Ok(self.orderer())
    }

    /// Who replaces the node's signing key.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_rotate_key(&self) -> Result<Orderer, Status> {
        self.admin_to("replace the signing key of the node (attest key rotate)")?;
        Ok(self.orderer())
    }

    /// Whether the caller may have the whole fingerprint of the node, with what identifies it.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_attest_node(&self) -> Result<(), Status> {
        self.admin_to("have the node attested; every local user may ask for its result digest (attest node --digest)")
    }

    /// Whether the caller may have the text of a named policy; `public`: every user may read its file.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_read_policy(&self, public: bool) -> Result<(), Status> {
        if public { Ok(()) } else { self.admin_to("read this policy: its file is not readable for every user") }
    }

    /// Whether the caller may start a run on what is cordoned or unhealthy.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_repair(&self) -> Result<(), Status> {
        self.admin_to("start a run on what is cordoned or unhealthy (repair)")
    }

    /// Whether the caller may start a run, or register one, for `owner` where that is asked.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_start(&self, owner: Option<u32>) -> Result<(), Status> {
        if self.remote.is_some() {
            return Err(denied("no remote identity may start or register a run"));
        }
        if let Some(run) = self.inside {
            return Err(denied(&format!(
                "a process of run {run} may not start or register a run: it would leave its own"
            )));
        }
        match owner {
            Some(owner) if owner != self.uid() && self.uid() != 0 => {
                Err(denied("owner_uid: only root may start a run for another user"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller is a process of the run, which may ask whether it may execute its command.
    pub fn is_of(&self, run: &Run) -> bool {
        self.inside == Some(run.id)
    }

    /// Whether the caller may see the run, and as what. A run of others looks as if it were not there.
    pub fn may_see(&self, run: &Run) -> Option<Role> {
        self.may_see_of(run.id, Some(run.owner_uid))
    }

    /// The same of a run of which no more is known; without an owner, it is nobody's.
    pub fn may_see_of(&self, run: RunId, owner_uid: Option<u32>) -> Option<Role> {
        if let Some(remote) = &self.remote {
            return Some(match remote.role {
                RemoteRole::Viewer => Role::Viewer,
                RemoteRole::Operator => Role::Operator,
                RemoteRole::Administrator => Role::Admin,
            });
        }
        if self.admin {
            return Some(Role::Admin);
        }
        let own = Some(self.uid()) == owner_uid && self.inside.is_none_or(|inside| inside == run);
        own.then_some(Role::Owner)
    }

    /// Whether the caller may act on the run. Where its owner may thaw, that depends on who froze the run: [`owner_may_not_thaw`].
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, saying who may.
    pub fn may_act(&self, role: Role, command: Command) -> Result<(), Status> {
        match (role, command) {
            (Role::Owner, Command::Thaw) if self.inside.is_none() => Ok(()),
            (Role::Admin, _) | (Role::Owner | Role::Operator, Command::Freeze) => Ok(()),
            (Role::Operator, _) => Err(denied("role operator may freeze; role administrator may thaw and kill")),
            (Role::Viewer, _) => Err(denied("role viewer may read; role operator may freeze")),
            (Role::Owner, Command::Thaw) => {
                self.admin_to("thaw; a run's owner may thaw its own freeze from outside of the run")
            }
            (Role::Owner, Command::Kill) => self.admin_to("kill; a run's owner may freeze it"),
        }
    }

    fn admin_to(&self, what: &str) -> Result<(), Status> {
        if self.admin {
            return Ok(());
        }
        let but = self.inside.map(|run| format!(", but not from inside a run ({run}),")).unwrap_or_default();
        Err(denied(&format!("root or the administrators' group{but} may {what}")))
    }
}

/// The refusal of a thaw by the owner of a run that somebody else wants contained, too.
pub fn owner_may_not_thaw() -> Status {
    denied(
        "root or the administrators' group may thaw this run; its owner may thaw only a freeze that nobody else ordered \
         since the daemon started, while the kernel does not block the run",
    )
}

fn denied(why: &str) -> Status {
    ErrorReason::PermissionDenied.status(why)
}
