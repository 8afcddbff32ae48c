//! Who may do what: the one place where that is decided.
//!
//! Root and the administrators' group may do everything. A run's owner may see it and freeze it. Anybody may start a run
//! of their own. Others read nothing.

use crate::platform::{ProcFs, users};
use failsafe_core::input::Run;
use tonic::{Request, Status, transport::server::UdsConnectInfo};

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
    /// Whether it is root or of the administrators' group.
    pub admin: bool,
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
    /// `UNAUTHENTICATED` where the kernel gives no credentials.
    pub fn principal<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        let peer = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .ok_or_else(|| Status::unauthenticated("the socket gives no peer credentials"))?;
        let pid = peer
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .ok_or_else(|| Status::unauthenticated("the socket gives no peer process: another pid namespace?"))?;
        let admin = peer.uid() == 0 || self.in_group(peer.gid(), pid, peer.uid());
        Ok(Principal { uid: peer.uid(), pid, admin })
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
        if self.admin { Ok(Role::Admin) } else { Err(denied("root or the administrators' group may read this")) }
    }

    /// Whether the caller may order something of the node's health, and in whose name it then stands on record.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_order(&self) -> Result<String, Status> {
        if self.admin {
            Ok(format!("user {} ({})", self.uid, Role::Admin.name()))
        } else {
            Err(denied("root or the administrators' group may cordon, uncordon and reset"))
        }
    }

    /// Whether the caller may start a run on what is cordoned or unhealthy.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_repair(&self) -> Result<(), Status> {
        if self.admin {
            Ok(())
        } else {
            Err(denied("repair: root or the administrators' group may start a run on what is cordoned or unhealthy"))
        }
    }

    /// Whether the caller may see the run, and as what. A run of others looks as if it were not there.
    pub fn may_see(&self, run: &Run) -> Option<Role> {
        if self.admin { Some(Role::Admin) } else { (self.uid == run.owner_uid).then_some(Role::Owner) }
    }

    /// Whether the caller may act on the run.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, saying who may.
    pub fn may_act(&self, role: Role, command: failsafe_core::input::Command) -> Result<(), Status> {
        use failsafe_core::input::Command;
        match (role, command) {
            (Role::Admin, _) | (Role::Owner, Command::Freeze) => Ok(()),
            (Role::Owner, _) => {
                Err(denied("a run's owner may freeze it; thaw and kill need root or the administrators' group"))
            }
        }
    }
}

fn denied(why: &str) -> Status {
    Status::permission_denied(why)
}
