//! The variables that a run is started again with: kept ones, given ones, and which values nobody has.
//!
//! Invariant: no variable gets a value that nobody gave.

use crate::{
    args::RerunArgs,
    commands::run::environment,
    exit::Fail,
    render::{clean, count},
};
use failsafe_proto::v1 as pb;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    process::Command,
};

/// The variables of the command, as far as they are known.
pub(super) struct Variables {
    pub known: BTreeMap<String, OsString>,
    pub missing: Missing,
}

/// Variables without a value, by what became of it.
#[derive(Default)]
pub(super) struct Missing {
    redacted: Vec<String>,
    unread: Vec<String>,
    lacking: Vec<String>,
}

impl Missing {
    /// Whether this one is.
    pub fn has(&self, name: &str) -> bool {
        [&self.redacted, &self.unread, &self.lacking].into_iter().flatten().any(|missing| missing == name)
    }

    /// Says which are missing and how to give them.
    pub fn fail(&self) -> Option<Fail> {
        let lists = [
            (&self.redacted, "had a secret, which is not stored"),
            (&self.unread, "had a value that was never read"),
            (&self.lacking, "had a value that was never read, and your environment has no such variable"),
        ];
        let missing: Vec<String> = lists
            .iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, why)| {
                format!("{} {why}: {}", count(names.len(), "variable", "variables"), clean(&names.join(", ")))
            })
            .collect();
        (!missing.is_empty()).then(|| {
            Fail::usage(missing.join("\n")).advise(
                "give each value (--env NAME=VALUE), take those that were never read from your environment (--inherit), or leave \
                 a variable out (--without NAME)",
            )
        })
    }
}

/// The variables of the command: kept values, given ones, and with --inherit those of the caller.
///
/// # Errors
/// An option names no variable.
pub(super) fn variables(
    of: &pb::RerunPlan,
    args: &RerunArgs,
    own: impl Fn(&str) -> Option<OsString>,
) -> Result<Variables, Fail> {
    let mut given = Command::new("env");
    environment::add(&mut given, &args.env)?;
    let mut all: BTreeMap<String, OsString> = BTreeMap::new();
    let mut missing = Missing::default();
    let kept: BTreeMap<&str, &Option<String>> = of.environment.iter().map(|it| (it.name.as_str(), &it.value)).collect();
    let names: BTreeSet<&str> = kept.keys().copied().chain(of.variables.iter().map(String::as_str)).collect();
    let set: BTreeMap<OsString, Option<OsString>> =
        given.get_envs().map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned))).collect();
    for name in names {
        if set.contains_key(OsStr::new(name)) || args.without.iter().any(|without| without == name) {
            continue;
        }
        match kept.get(name) {
            Some(Some(value)) => drop(all.insert(name.to_owned(), value.into())),
            // A secret is not taken from wherever the caller happens to have one.
            Some(None) => missing.redacted.push(name.to_owned()),
            None if args.inherit => match own(name) {
                Some(value) => drop(all.insert(name.to_owned(), value)),
                None => missing.lacking.push(name.to_owned()),
            },
            None => missing.unread.push(name.to_owned()),
        }
    }
    for (name, value) in set {
        if let (Some(name), Some(value)) = (name.to_str(), value) {
            all.insert(name.to_owned(), value);
        }
    }
    Ok(Variables { known: all, missing })
}
