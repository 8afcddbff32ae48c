//! `[gateway]`: which process is the gateway, that serves metrics and remote clients, sends notifications and receives metrics, and
//! the roles of remote clients.

use super::check::Wrong;
use serde::Deserialize;
use std::path::PathBuf;

/// `[gateway]`: the process that is the gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Its user; empty: no process is the gateway.
    pub user: String,
    /// The cgroup that it must be in, or below, beginning with `/` at the cgroup2 mount.
    pub cgroup: PathBuf,
    /// Whether it may read the audit log, of which it sends notifications.
    pub notifications: bool,
    /// Whether it may hand on metrics of processes of runs that connected to it.
    pub receive: bool,
    /// The file with the roles of remote identities; none: no identity has one.
    pub roles: Option<PathBuf>,
}

impl Default for Gateway {
    fn default() -> Gateway {
        let cgroup = "/system.slice/failsafe-gateway.service".into();
        Gateway { user: String::new(), cgroup, notifications: false, receive: false, roles: None }
    }
}

impl Gateway {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if self.user == "root" {
            wrong.push(Wrong::new("gateway.user", "expected a user of its own, not root".to_owned()));
        }
        let plain = self.cgroup.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
        if !self.cgroup.is_absolute() || !plain || self.cgroup.components().count() < 2 {
            let message = "expected a path below the cgroup2 mount that begins with /, and not / itself".to_owned();
            wrong.push(Wrong::new("gateway.cgroup", message));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_whole_tree_of_cgroups_are_no_gateway() {
        let of = |user: &str, cgroup: &str| {
            Gateway { user: user.into(), cgroup: cgroup.into(), ..Gateway::default() }.wrong().len()
        };
        assert_eq!(of("failsafe-gateway", "/system.slice/failsafe-gateway.service"), 0);
        assert_eq!(Gateway::default().wrong().len(), 0);
        for (user, cgroup) in [("root", "/a"), ("g", "/"), ("g", "a"), ("g", "/a/../b"), ("g", "")] {
            assert_eq!(of(user, cgroup), 1, "{user} {cgroup}");
        }
    }
}
