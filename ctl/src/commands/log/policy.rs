//! Whom a verification trusts: the keys of a file, those of the state folder, or a policy with logs and witnesses (`--policy`).

use super::{
    super::Place,
    keys::{self, Known},
};
use crate::{
    exit::{Exit, Fail},
    render::{clean, time},
};
use failsafe_tlog::{
    note,
    policy::{MAX_BYTES, Policy},
};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Whom to trust, as the command line says.
pub(super) enum Trust<'a> {
    /// Keys of a file, or without one those of the state folder.
    Keys(Option<&'a Path>),
    /// A policy.
    Policy(&'a Path),
}

/// A policy that was read.
pub(super) struct Read {
    shown: String,
    policy: Policy,
}

/// A checkpoint that the quorum of a policy cosigned.
#[derive(Debug)]
pub(super) struct Cosigned {
    /// The file that has it.
    pub source: String,
    /// Names of witnesses, and when each cosigned, seconds since the epoch.
    by: Vec<(String, u64)>,
}

impl<'a> Trust<'a> {
    pub fn of(keys: Option<&'a Path>, policy: Option<&'a Path>) -> Trust<'a> {
        policy.map_or(Trust::Keys(keys), Trust::Policy)
    }

    /// The keys that may have signed checkpoints.
    pub fn known(&self, place: &Place<'_>) -> Result<Known, Fail> {
        match self.policy()? {
            Some(read) => Ok(Known::of_logs(read.policy.logs().clone())),
            None => keys::known(place, self.file()),
        }
    }

    /// The policy, if there is one.
    pub fn policy(&self) -> Result<Option<Read>, Fail> {
        let Trust::Policy(path) = self else { return Ok(None) };
        let shown = clean(&path.display().to_string());
        let bytes = super::read(path, "policy", MAX_BYTES)?;
        let policy = Policy::parse(&bytes).map_err(|error| {
            Fail::new(Exit::Usage, format!("{shown}: {error}"))
                .advise("the format is C2SP tlog-policy; docs/transparency-log.md has an example")
        })?;
        Ok(Some(Read { shown, policy }))
    }

    /// Who cosigned these checkpoints; none without a policy.
    pub fn cosigned(&self, checkpoints: &[PathBuf]) -> Result<Vec<Cosigned>, Fail> {
        let Some(read) = self.policy()? else { return Ok(Vec::new()) };
        let cosigned = checkpoints.iter().map(|path| {
            let note = super::read(path, "checkpoint", note::MAX_BYTES)?;
            read.cosigned(&note, &path.display().to_string())
        });
        cosigned.collect()
    }

    fn file(&self) -> Option<&Path> {
        match self {
            Trust::Keys(file) => *file,
            Trust::Policy(_) => None,
        }
    }
}

impl Read {
    /// Who cosigned the checkpoint of the file `source`.
    pub fn cosigned(&self, note: &[u8], source: &str) -> Result<Cosigned, Fail> {
        let accepted = self.policy.accept(note).map_err(|error| {
            Fail::because(format!("{source}: the policy {} does not accept the checkpoint", self.shown), &error)
                .advise("have the witnesses of the policy cosign it: `failsafectl log witness cosign`")
        })?;
        Ok(Cosigned { source: source.to_owned(), by: accepted.cosigned })
    }
}

impl Cosigned {
    /// One line.
    pub fn text(&self, zone: &TimeZone) -> String {
        if self.by.is_empty() {
            return "by nobody; the policy needs no witness".to_owned();
        }
        let by = self.by.iter().map(|(name, seconds)| {
            format!("{} at {}", clean(name), time::wall(i128::from(*seconds) * 1_000_000_000, zone))
        });
        format!("by {}", by.collect::<Vec<_>>().join(", "))
    }

    pub fn json(&self) -> Value {
        let by = self.by.iter().map(|(name, seconds)| json!({ "witness": name, "time": seconds }));
        json!({ "checkpoint": self.source, "by": by.collect::<Value>() })
    }
}
