//! A factor: one fact about a node or a run, where it comes from, and how far it can be trusted.

use crate::json::Json;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest path, bytes.
pub const MAX_PATH: usize = 512;

/// What a difference in a factor changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It can change computed results.
    Result,
    /// It changes speed, not results.
    Performance,
    /// It only says which machine or run it is.
    Identity,
}

/// How far a value can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// The run says so.
    Claimed,
    /// The daemon read it from the operating system or a driver.
    OsMeasured,
    /// A TPM quote covers it.
    TpmQuoted,
    /// A device signed it.
    DeviceSigned,
}

/// Whether there is a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The value was read.
    Ok,
    /// It could not be read.
    Unavailable,
    /// The kernel, or the node's rules about who may read what, refused it.
    Denied,
    /// Nobody asked for it.
    NotAsked,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Its name, segments separated by `/`, such as `node/cpu/model`.
    pub path: String,
    /// Its value; `null` with status `ok` means that it is known to be absent.
    pub value: Json,
    /// What a difference in it changes.
    pub class: Class,
    /// Where the value was read.
    pub source: String,
    /// How far the value can be trusted.
    pub assurance: Assurance,
    /// Whether there is a value.
    pub status: Status,
    /// Why there is none; empty with status `ok`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A fact as a reader reports it: the table of factors adds its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// As [`Factor::path`].
    pub path: String,
    /// The value, or why there is none.
    pub value: Result<Json, Missing>,
    /// As [`Factor::source`].
    pub source: String,
    /// As [`Factor::assurance`].
    pub assurance: Assurance,
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Not [`Status::Ok`].
    pub status: Status,
    /// Why.
    pub reason: String,
}

impl Missing {
    /// It could not be read.
    pub fn unavailable(reason: impl Into<String>) -> Missing {
        Missing { status: Status::Unavailable, reason: reason.into() }
    }

    /// It was refused.
    pub fn denied(reason: impl Into<String>) -> Missing {
        Missing { status: Status::Denied, reason: reason.into() }
    }

    /// Nobody asked for it.
    pub fn not_asked(reason: impl Into<String>) -> Missing {
        Missing { status: Status::NotAsked, reason: reason.into() }
    }
}

impl Fact {
    /// One that the operating system or a driver gives.
    pub fn measured(path: impl Into<String>, source: impl Into<String>, value: Result<Json, Missing>) -> Fact {
        Fact { path: path.into(), value, source: source.into(), assurance: Assurance::OsMeasured }
    }

    /// One that the run can choose.
    pub fn claimed(path: impl Into<String>, source: impl Into<String>, value: Result<Json, Missing>) -> Fact {
        Fact { path: path.into(), value, source: source.into(), assurance: Assurance::Claimed }
    }
}

impl Class {
    /// The name in statements and answers.
    pub fn name(self) -> &'static str {
        match self {
            Class::Result => "result",
            Class::Performance => "performance",
            Class::Identity => "identity",
        }
    }
}

impl Status {
    /// The name in statements and answers.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Unavailable => "unavailable",
            Status::Denied => "denied",
            Status::NotAsked => "not-asked",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Makes a text of the outside one segment of a path: `/` and control characters are replaced.
pub fn segment(text: &str) -> String {
    let safe = |c: char| if c == '/' || c.is_control() { '_' } else { c };
    let cut = text.char_indices().take_while(|(at, _)| *at < 128).map(|(_, c)| safe(c));
    let made: String = cut.collect();
    if made.is_empty() { "_".to_owned() } else { made }
}

/// Whether a path may stand in a statement.
pub fn is_path(path: &str) -> bool {
    path.len() <= MAX_PATH && path.split('/').all(|part| !part.is_empty() && !part.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_outside_become_one_segment() {
        assert_eq!(segment("../a/b\n"), ".._a_b_");
        assert_eq!(segment(""), "_");
        assert!(segment(&"ü".repeat(1_000)).len() <= 130);
        for (path, good) in [("node/cpu/model", true), ("", false), ("a//b", false), ("/a", false), ("a/b\u{7}", false)]
        {
            assert_eq!(is_path(path), good, "{path}");
        }
    }
}
