//! Who asked for something: a process of this node, an identity from another machine, a schedule, or the daemon itself.
//!
//! Entries of earlier versions have a user id and a process id in place of an actor. They are read as a [`LocalPeer`] of which
//! nothing else is known.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value, json};
use std::fmt;

/// The role under which the owner of a run is allowed a command, as requests have it ([`Request::role`]).
pub const OWNER: &str = "owner";

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// A process of this node, at the other end of the control socket.
    Local(LocalPeer),
    /// An identity that another machine proved.
    Remote {
        /// Its name.
        name: String,
        /// How it was proved.
        method: String,
    },
    /// A schedule of the daemon's, such as that of drills.
    Schedule {
        /// Its name.
        name: String,
    },
    /// The daemon, by a rule of a policy or to keep up a containment.
    Daemon,
}

/// A process, as it was when the daemon handled its request. What is not known of it is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPeer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: Option<u32>,
    /// Process id. Another process can have the same one later: with `start_ticks` and the boot it is unique.
    pub pid: Option<u32>,
    /// When the process started, in clock ticks since boot (`/proc/PID/stat` field 22).
    pub start_ticks: Option<u64>,
    /// The path of its main thread's cgroup below the cgroup2 mount, beginning with `/`.
    pub cgroup: Option<String>,
}

/// A request that was allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Request {
    /// Who asked.
    pub actor: Actor,
    /// The role under which it was allowed: `admin` or `owner`.
    pub role: String,
    /// Why, in their words.
    pub reason: String,
}

impl Actor {
    /// The local user who asked, if one did.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Actor::Local(peer) => Some(peer.uid),
            Actor::Remote { .. } | Actor::Schedule { .. } | Actor::Daemon => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Local(peer) => write!(f, "user {}", peer.uid),
            Actor::Remote { name, method } => write!(f, "remote identity {name} ({method})"),
            Actor::Schedule { name } => write!(f, "schedule {name}"),
            Actor::Daemon => f.write_str("failsafed"),
        }
    }
}

/// What earlier versions stored of an actor, as text formats have an [`Actor`] now.
pub(crate) fn of_numbers(uid: impl Into<Value>, pid: impl Into<Value>) -> Value {
    json!({ "local": { "uid": uid.into(), "pid": pid.into() } })
}

/// The fields of a struct that has `actor`, from a text format. Earlier versions have `uid` and `pid` in its place.
pub(crate) fn fields_of_both_forms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let mut fields = Map::deserialize(deserializer)?;
    if !fields.contains_key("actor")
        && let Some(uid) = fields.remove("uid")
    {
        let pid = fields.remove("pid");
        fields.insert("actor".into(), of_numbers(uid, pid));
    }
    Ok(Value::Object(fields))
}

/// An actor that may be missing. Earlier versions have the user id alone.
pub(crate) fn or_uid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Actor>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        uid @ Value::Number(_) => Actor::deserialize(of_numbers(uid, Value::Null)).map(Some),
        actor => Actor::deserialize(actor).map(Some),
    }
    .map_err(D::Error::custom)
}

/// Makes a struct with `actor` readable in both forms. It derives `Serialize` and `Deserialize` with `remote = "Self"`. Binary
/// formats have no names of fields: [`crate::recording`] reads their earlier versions.
macro_rules! read_both_forms {
    ($type:ident) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $type::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                if !deserializer.is_human_readable() {
                    return $type::deserialize(deserializer);
                }
                let fields = $crate::actor::fields_of_both_forms(deserializer)?;
                $type::deserialize(fields).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use read_both_forms;

read_both_forms!(Request);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decision::Cause, input::Control, record::Record};

    fn peer(pid: Option<u32>) -> LocalPeer {
        LocalPeer { uid: 1000, gid: None, pid, start_ticks: None, cgroup: None }
    }

    #[test]
    fn entries_with_uid_and_pid_are_read_as_a_local_peer() {
        let control = r#"{"type":"control","seq":1,"at":2,"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","command":"freeze",
            "uid":1000,"pid":99,"role":"owner","reason":"drill"}"#;
        let Record::Control(Control { actor, role, reason, .. }) = serde_json::from_str(control).unwrap() else {
            panic!("another record")
        };
        let read = (actor, role.as_str(), reason.as_str());
        assert_eq!(read, (Actor::Local(peer(Some(99))), "owner", "drill"));

        let cause = r#"{"Operator":{"uid":1000,"pid":99,"role":"owner","reason":"drill"}}"#;
        let Cause::Operator(request) = serde_json::from_str(cause).unwrap() else { panic!("another cause") };
        assert_eq!((request.actor, request.role.as_str()), (Actor::Local(peer(Some(99))), "owner"));

        let policy = format!("sha256:{}", "ab".repeat(32));
        let refused = format!(r#"{{"type":"policy-refused","policy":"{policy}","why":"blind","uid":1000}}"#);
        let Record::PolicyRefused { actor, .. } = serde_json::from_str(&refused).unwrap() else {
            panic!("another record")
        };
        assert_eq!(actor, Some(Actor::Local(peer(None))));
        let older = format!(r#"{{"type":"policy-refused","policy":"{policy}","why":"blind"}}"#);
        assert!(matches!(serde_json::from_str(&older).unwrap(), Record::PolicyRefused { actor: None, .. }));
    }

    #[test]
    fn every_actor_is_read_back_from_the_text_that_is_written() {
        let local = LocalPeer { gid: Some(100), start_ticks: Some(7), cgroup: Some("/a".into()), ..peer(Some(99)) };
        let remote = Actor::Remote { name: "ops@example.org".into(), method: "mtls".into() };
        for actor in [Actor::Local(local), remote, Actor::Schedule { name: "nightly".into() }, Actor::Daemon] {
            let cause = Cause::Operator(Request { actor, role: "admin".into(), reason: "why".into() });
            let text = serde_json::to_string(&cause).unwrap();
            assert_eq!(serde_json::from_str::<Cause>(&text).unwrap(), cause, "{text}");
        }
        let text = serde_json::to_string(&Actor::Local(peer(Some(99)))).unwrap();
        assert_eq!(text, r#"{"local":{"uid":1000,"gid":null,"pid":99,"start_ticks":null,"cgroup":null}}"#);
    }

    #[test]
    fn an_entry_without_any_actor_is_not_taken_for_one_of_root() {
        assert!(serde_json::from_str::<Request>(r#"{"role":"admin","reason":"x"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"uid":-1,"pid":1,"role":"admin","reason":"x"}"#).is_err());
    }
}
