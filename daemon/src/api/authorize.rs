//! Who may do what: the one place where that is decided.
//!
//! Root and the administrators' group may do everything. A run's owner may see it and freeze it. Anybody may start a run
//! of their own. Others read nothing. Who is inside a run, root too, is at most its owner and starts none: it would leave the
//! bounds that it is in.

use super::connection::Maker;
use crate::{
    platform::{ProcFs, users},
    runs::Registry,
};
use failsafe_core::{RunId, input::Run};
use tonic::{Request, Status};

/// What a principal may be to a run or to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Root, or of the administrators' group.
    Admin,
    /// The user that the run belongs to.
    Owner,
}

impl Role {
    /// The name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Owner => "owner",
        }
    }
}

/// An authenticated caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// Its user id.
    pub uid: u32,
    /// Its process id, by the kernel's word when it connected.
    pub pid: u32,
    /// Whether it is root or of the administrators' group, and in no run.
    pub admin: bool,
    /// The run that it was in when it connected.
    pub inside: Option<RunId>,
}

/// Knows the administrators' group.
#[derive(Debug, Clone)]
pub struct Authority {
    admin_gid: Option<u32>,
}

impl Authority {
    /// Looks the group up; a host without it has only root.
    pub fn new(group: &str) -> Authority {
        let admin_gid = users::group_id(group).unwrap_or_else(|error| {
            tracing::warn!(group, %error, "the administrators' group cannot be looked up: only root may act");
            None
        });
        Authority { admin_gid }
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` where the kernel gives no credentials, or where it cannot be told whether the caller is in a run.
    pub fn principal<T>(&self, request: &Request<T>, runs: &Registry) -> Result<Principal, Status> {
        let no_peer = || Status::unauthenticated("the socket gives no peer credentials");
        let maker = request.extensions().get::<Maker>().ok_or_else(no_peer)?;
        let peer = maker.credentials.ok_or_else(no_peer)?;
        let pid = peer
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .ok_or_else(|| Status::unauthenticated("the socket gives no peer process: another pid namespace?"))?;
        let cgroup = maker.cgroup.as_deref().ok_or_else(|| {
            Status::unauthenticated("the process that connected has ended, and its cgroup is not known")
        })?;
        let inside = runs.inside(cgroup);
        let admin = inside.is_none() && (peer.uid() == 0 || self.in_group(peer.gid(), pid, peer.uid()));
        Ok(Principal { uid: peer.uid(), pid, admin, inside })
    }

    fn in_group(&self, gid: u32, pid: u32, uid: u32) -> bool {
        let Some(admin) = self.admin_gid else { return false };
        if gid == admin {
            return true;
        }
        // Supplementary groups are not in the credentials. A pid that was reused by another user counts for nothing.
        match users::credentials(&ProcFs::default(), pid) {
            Ok(Some(now)) => now.uid == uid && now.groups.contains(&admin),
            _ => false,
        }
    }
}

impl Principal {
    /// What the caller is to the node.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn on_node(&self) -> Result<Role, Status> {
        self.admin_to("read this").map(|()| Role::Admin)
    }

    /// Whether the caller may order something of the node's health, and in whose name it then stands on record.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_order(&self) -> Result<String, Status> {
        self.admin_to("cordon, uncordon and reset")?;
        Ok(format!("user {} ({})", self.uid, Role::Admin.name()))
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
        if let Some(run) = self.inside {
            return Err(denied(&format!(
                "a process of run {run} may not start or register a run: it would leave its own"
            )));
        }
        match owner {
            Some(owner) if owner != self.uid && self.uid != 0 => {
                Err(denied("owner_uid: only root may start a run for another user"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller may see the run, and as what. A run of others looks as if it were not there.
    pub fn may_see(&self, run: &Run) -> Option<Role> {
        if self.admin {
            return Some(Role::Admin);
        }
        let own = self.uid == run.owner_uid && self.inside.is_none_or(|inside| inside == run.id);
        own.then_some(Role::Owner)
    }

    /// Whether the caller may act on the run.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, saying who may.
    pub fn may_act(&self, role: Role, command: failsafe_core::input::Command) -> Result<(), Status> {
        use failsafe_core::input::Command;
        match (role, command) {
            (Role::Admin, _) | (Role::Owner, Command::Freeze) => Ok(()),
            (Role::Owner, _) => self.admin_to("thaw and kill; a run's owner may freeze it"),
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

fn denied(why: &str) -> Status {
    Status::permission_denied(why)
}
