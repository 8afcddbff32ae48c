//! Whom the command runs as. Root never by accident: behind `sudo` it is the user who called it, and plain root has to name
//! somebody.

use super::environment;
use crate::exit::{Exit, Fail};
use nix::unistd::{Gid, Uid, User, initgroups, setgid, setgroups, setuid};
use std::{ffi::CString, process::Command};

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    uid: Uid,
    /// User and group behind `sudo`.
    sudo: Option<(Uid, Option<Gid>)>,
}

impl Caller {
    /// This process.
    pub(super) fn this() -> Caller {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let sudo = number("SUDO_UID").map(|uid| (Uid::from_raw(uid), number("SUDO_GID").map(Gid::from_raw)));
        Caller { uid: Uid::effective(), sudo }
    }
}

/// Whom to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Who we are.
    Same(Uid),
    /// Somebody else; we are root.
    Other { uid: Uid, gid: Gid, name: Option<String>, home: Option<String> },
}

/// Chooses, or refuses to guess.
pub(super) fn choose(wanted: Option<&str>, caller: &Caller) -> Result<Target, Fail> {
    match wanted {
        Some(wanted) => {
            let user = find(wanted)?;
            if user.uid == caller.uid {
                return Ok(Target::Same(caller.uid));
            }
            if !caller.uid.is_root() {
                return Err(Fail::new(Exit::Denied, format!("only root may run a command as {wanted}")));
            }
            Ok(Target::of(user, None))
        }
        None if !caller.uid.is_root() => Ok(Target::Same(caller.uid)),
        None => match caller.sudo {
            Some((uid, gid)) if !uid.is_root() => match lookup(&uid.to_string(), User::from_uid(uid))? {
                Some(user) => Ok(Target::of(user, gid)),
                None => {
                    let gid =
                        gid.ok_or_else(|| Fail::usage(format!("user {uid} has no group: name a user with --user")))?;
                    Ok(Target::Other { uid, gid, name: None, home: None })
                }
            },
            _ => Err(Fail::usage("run as root needs --user")
                .advise("give --user NAME, or --user root to run the command as root")),
        },
    }
}

fn find(wanted: &str) -> Result<User, Fail> {
    let by_name = lookup(wanted, User::from_name(wanted))?;
    let by_uid = || match wanted.parse() {
        Ok(uid) => lookup(wanted, User::from_uid(Uid::from_raw(uid))),
        Err(_) => Ok(None),
    };
    match by_name {
        Some(user) => Ok(user),
        None => by_uid()?.ok_or_else(|| Fail::usage(format!("there is no user {wanted}"))),
    }
}

fn lookup(who: &str, found: nix::Result<Option<User>>) -> Result<Option<User>, Fail> {
    found.map_err(|error| Fail::because(format!("cannot look up user {who}"), &error))
}

impl Target {
    fn of(user: User, gid: Option<Gid>) -> Target {
        let home = user.dir.to_str().map(str::to_owned);
        Target::Other { uid: user.uid, gid: gid.unwrap_or(user.gid), name: Some(user.name), home }
    }

    /// Whether it is another user than the caller.
    pub(super) fn is_other(&self) -> bool {
        matches!(self, Target::Other { .. })
    }

    /// The user id.
    pub(super) fn uid(&self) -> u32 {
        match self {
            Target::Same(uid) | Target::Other { uid, .. } => uid.as_raw(),
        }
    }

    /// Gives up what this process may, for good, and tells the command who it is.
    pub(super) fn become_it(&self, command: &mut Command) -> Result<(), Fail> {
        let Target::Other { uid, gid, name, home } = self else { return Ok(()) };
        environment::reset(command);
        let failed = |what: &str| {
            let message = format!("cannot become user {uid}: {what}");
            move |error: nix::Error| Fail::because(message, &error)
        };
        match name.as_deref().map(CString::new) {
            Some(Ok(name)) => initgroups(&name, *gid).map_err(failed("groups"))?,
            _ => setgroups(&[*gid]).map_err(failed("groups"))?,
        }
        setgid(*gid).map_err(failed("group"))?;
        setuid(*uid).map_err(failed("user"))?;
        if !uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            return Err(Fail::new(
                Exit::Error,
                format!("user {uid} could become root again: the command is not started"),
            ));
        }
        for (key, value) in [("USER", name), ("LOGNAME", name), ("HOME", home)] {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(sudo: Option<(u32, Option<u32>)>) -> Caller {
        let sudo = sudo.map(|(uid, gid)| (Uid::from_raw(uid), gid.map(Gid::from_raw)));
        Caller { uid: Uid::from_raw(0), sudo }
    }

    #[test]
    fn plain_root_has_to_say_whom_it_means() {
        for caller in [root(None), root(Some((0, Some(0))))] {
            let refused = choose(None, &caller).unwrap_err();
            assert_eq!(refused.exit, Exit::Usage);
            assert!(refused.advice.unwrap().contains("--user root"));
        }
        assert_eq!(choose(Some("root"), &root(None)), Ok(Target::Same(Uid::from_raw(0))));
        assert_eq!(choose(Some("0"), &root(None)), Ok(Target::Same(Uid::from_raw(0))));
        assert_eq!(choose(Some("no-such-user"), &root(None)).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn behind_sudo_it_is_the_caller() {
        let unknown = 3_999_999;
        let chosen = choose(None, &root(Some((unknown, Some(77))))).unwrap();
        let gid = Gid::from_raw(77);
        assert_eq!(chosen, Target::Other { uid: Uid::from_raw(unknown), gid, name: None, home: None });
        assert_eq!(choose(None, &root(Some((unknown, None)))).unwrap_err().exit, Exit::Usage);
        let Some(nobody) = User::from_name("nobody").unwrap() else { return eprintln!("SKIPPED: no user nobody") };
        assert_eq!(choose(None, &root(Some((nobody.uid.as_raw(), None)))).unwrap().uid(), nobody.uid.as_raw());
        assert_eq!(choose(Some("root"), &root(Some((unknown, None)))), Ok(Target::Same(Uid::from_raw(0))));
    }

    #[test]
    fn users_stay_who_they_are() {
        let caller = Caller { uid: Uid::from_raw(4242), sudo: Some((Uid::from_raw(1), None)) };
        assert_eq!(choose(None, &caller), Ok(Target::Same(Uid::from_raw(4242))));
        assert_eq!(choose(Some("root"), &caller).unwrap_err().exit, Exit::Denied);
    }
}
