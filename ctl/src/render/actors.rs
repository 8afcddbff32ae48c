//! Who asked, for people: the user's name beside the user id, and the role under which the request was allowed.

use super::{clean, users};
use failsafe_core::actor::{Actor, LocalPeer, Request};
use failsafe_proto::v1 as pb;

/// `user 1000 (alice)`, or what else it is.
pub fn named(actor: &Actor) -> String {
    match actor {
        Actor::Local(peer) => format!("user {}", users::shown(peer.uid)),
        Actor::Remote { .. } | Actor::Schedule { .. } | Actor::Daemon => clean(&actor.to_string()),
    }
}

/// `user 1000 (alice, owner)`.
pub fn requester(request: &Request) -> String {
    in_role(&request.actor, std::slice::from_ref(&request.role))
}

/// `user 1000 (alice, owner, pid 42)`.
pub fn with_pid(actor: &Actor, role: &str) -> String {
    let pid = match actor {
        Actor::Local(LocalPeer { pid: Some(pid), .. }) => Some(format!("pid {pid}")),
        Actor::Local(_) | Actor::Remote { .. } | Actor::Schedule { .. } | Actor::Daemon => None,
    };
    let parts: Vec<String> = [role.to_owned()].into_iter().chain(pid).collect();
    in_role(actor, &parts)
}

fn in_role(actor: &Actor, parts: &[String]) -> String {
    let name = actor.uid().and_then(users::name);
    let parts: Vec<String> = name.into_iter().chain(parts.iter().map(|part| clean(part))).collect();
    format!("{} ({})", clean(&actor.to_string()), parts.join(", "))
}

/// The text `by`, which has a user id, with the user's name.
pub fn with_name(by: &str, actor: Option<&Actor>) -> String {
    let name = actor.and_then(Actor::uid).and_then(users::name);
    let named = actor.zip(name).and_then(|(actor, name)| {
        let rest = by.strip_prefix(&format!("{actor} ("))?;
        Some(format!("{actor} ({name}, {rest}"))
    });
    named.unwrap_or_else(|| by.to_owned())
}

/// What is known of the process that asked, in one line.
pub fn process(actor: &Actor) -> Option<String> {
    let Actor::Local(LocalPeer { gid, pid, start_ticks, cgroup, .. }) = actor else { return None };
    let facts: Vec<String> = [
        pid.map(|pid| format!("pid {pid}")),
        start_ticks.map(|ticks| format!("started {ticks} clock ticks after boot")),
        gid.map(|gid| format!("group {gid}")),
        cgroup.as_ref().map(|cgroup| format!("cgroup {}", clean(cgroup))),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!facts.is_empty()).then(|| facts.join(", "))
}

/// Who asked, as the daemon's interface has it; `None`: a kind that this version does not know.
pub fn of_message(actor: &pb::Actor) -> Option<Actor> {
    use pb::actor::Actor as Kind;
    Some(match actor.actor.clone()? {
        Kind::Local(pb::LocalPeer { uid, gid, pid, start_ticks, cgroup }) => {
            Actor::Local(LocalPeer { uid, gid, pid, start_ticks, cgroup })
        }
        Kind::Remote(pb::RemoteIdentity { name, method }) => Actor::Remote { name, method },
        Kind::Schedule(pb::Schedule { name }) => Actor::Schedule { name },
        Kind::Daemon(pb::Daemon {}) => Actor::Daemon,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, pid: Option<u32>) -> Actor {
        Actor::Local(LocalPeer { uid, gid: None, pid, start_ticks: None, cgroup: None })
    }

    #[test]
    fn a_local_user_has_its_name_and_role() {
        assert_eq!(with_pid(&peer(0, Some(77)), "admin"), "user 0 (root, admin, pid 77)");
        assert_eq!(with_pid(&peer(4_000_000_000, None), "owner"), "user 4000000000 (owner)");
        assert_eq!(named(&peer(0, None)), "user 0 (root)");
        let remote = Actor::Remote { name: "a\nb".into(), method: "mtls".into() };
        assert_eq!(with_pid(&remote, "admin"), "remote identity a b (mtls) (admin)");
        assert_eq!(named(&Actor::Daemon), "failsafed");
    }

    #[test]
    fn a_text_with_a_user_id_gets_the_name_of_that_user_only() {
        let by = "user 0 (admin): fan replaced";
        assert_eq!(with_name(by, Some(&peer(0, None))), "user 0 (root, admin): fan replaced");
        assert_eq!(with_name(by, None), by);
        assert_eq!(with_name("rule hot of run train", Some(&Actor::Daemon)), "rule hot of run train");
    }

    #[test]
    fn an_entry_of_an_earlier_version_shows_what_it_has() {
        assert_eq!(process(&peer(0, Some(77))).as_deref(), Some("pid 77"));
        assert_eq!(process(&peer(0, None)), None);
        assert_eq!(process(&Actor::Daemon), None);
    }
}
