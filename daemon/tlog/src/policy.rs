//! Policies (c2sp.org/tlog-policy): which logs may have signed a checkpoint, and which of their witnesses must have cosigned it.
//!
//! ```text
//!  log     VKEY [URL]
//!  witness NAME VKEY [URL]
//!  group   NAME all|any|K MEMBER...      of witnesses and groups in front of it
//!  quorum  NAME|none                     exactly once
//! ```
//!
//! Invariant: names are compared as bytes, and each is a member of one group at most, so that no witness counts twice.

use crate::checkpoint::{BadCheckpoint, Checkpoint};
use crate::cosignature::WitnessKey;
use crate::note::{BadKey, Keys, NotVerified, Note, VerifierKey};
use crate::witness::is_origin_of;
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes of a policy.
pub const MAX_BYTES: usize = 1 << 20;
/// Most logs, witnesses and groups together.
pub const MAX_LINES: usize = 1_024;

/// The name of the quorum that needs nobody.
const NONE: &[u8] = b"none";

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Keys,
    /// Witnesses and groups, in the order of the file: a group has only members in front of it.
    parties: Vec<Party>,
    /// Place of the quorum in `parties`.
    quorum: Option<usize>,
}

/// A witness or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Party {
    name: Vec<u8>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Witness(WitnessKey),
    Group { needed: usize, members: Vec<usize> },
}

/// A checkpoint that a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The key of its log.
    pub log: VerifierKey,
    /// The witnesses of the policy that cosigned it, by their names there, with the time in seconds since the epoch.
    pub cosigned: Vec<(String, u64)>,
}

/// A checkpoint that a policy does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is none, or not by a log of the policy.
    #[error(transparent)]
    Checkpoint(#[from] BadCheckpoint),
    /// A log signed for another one.
    #[error("the key `{key}` of the policy does not sign for the log `{origin}`")]
    OtherLog {
        /// Name of the key.
        key: String,
        /// Of the checkpoint.
        origin: String,
    },
    /// A cosignature.
    #[error("the cosignature of a witness is not valid: {0}")]
    Cosignature(NotVerified),
    /// Too few.
    #[error("the quorum of the policy is not reached: {needed}; valid cosignatures: {found}")]
    Quorum {
        /// What is needed.
        needed: String,
        /// Who cosigned.
        found: String,
    },
}

/// Text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    /// Too long.
    #[error("the policy has {0} bytes; the limit is {MAX_BYTES}")]
    TooLong(usize),
    /// Too many lines.
    #[error("the policy has more than {MAX_LINES} logs, witnesses and groups")]
    TooMany,
    /// No quorum.
    #[error("the policy has no quorum: expected one line `quorum NAME` or `quorum none`")]
    NoQuorum,
    /// In a line.
    #[error("line {line}: {why}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        why: BadLine,
    },
}

/// What is wrong with a line of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// A control character.
    #[error("byte {0:#04x} is not allowed: the only control characters of a policy are tab and line break")]
    Control(u8),
    /// Another keyword.
    #[error("`{0}` is unknown; expected `log`, `witness`, `group` or `quorum`")]
    Keyword(String),
    /// Too few or too many words.
    #[error("expected `{0}`")]
    Form(&'static str),
    /// The key.
    #[error("the key: {0}")]
    Key(BadKey),
    /// The key of a line before.
    #[error("this public key is in an earlier line already")]
    Duplicate,
    /// A name that is taken.
    #[error("the name `{0}` is defined already")]
    Defined(String),
    /// A name that is not there.
    #[error("no witness and no group `{0}` is defined in an earlier line")]
    Undefined(String),
    /// A name that is in a group.
    #[error("`{0}` is a member of a group already")]
    Member(String),
    /// A threshold.
    #[error("the group has {members} members; expected `all`, `any` or a number from 1 to that")]
    Threshold {
        /// Its members.
        members: usize,
    },
    /// A second quorum.
    #[error("the policy has a quorum already")]
    Quorum,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`BadPolicy`].
    pub fn parse(bytes: &[u8]) -> Result<Policy, BadPolicy> {
        if bytes.len() > MAX_BYTES {
            return Err(BadPolicy::TooLong(bytes.len()));
        }
        let mut reader = Reader::default();
        for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            reader.line(line).map_err(|why| BadPolicy::Line { line: at + 1, why })?;
            if reader.logs.len() + reader.parties.len() > MAX_LINES {
                return Err(BadPolicy::TooMany);
            }
        }
        let quorum = reader.quorum.ok_or(BadPolicy::NoQuorum)?;
        Ok(Policy { logs: Keys::of(reader.logs), parties: reader.parties, quorum })
    }

    /// The keys of its logs.
    #[must_use]
    pub fn logs(&self) -> &Keys {
        &self.logs
    }

    /// Verifies that a log of the policy signed the checkpoint, and that the quorum of its witnesses cosigned it.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn accept(&self, note: &[u8]) -> Result<Accepted, Rejected> {
        let note = Note::parse(note).map_err(BadCheckpoint::from)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        let log = note.verify(&self.logs).map_err(BadCheckpoint::from)?;
        if !is_origin_of(log.name(), &checkpoint.origin) {
            return Err(Rejected::OtherLog { key: log.name().to_owned(), origin: checkpoint.origin });
        }
        let (mut cosigned, mut reached) = (Vec::new(), Vec::with_capacity(self.parties.len()));
        for Party { name, what } in &self.parties {
            reached.push(match what {
                What::Witness(key) => {
                    let time = key.cosigned(&note).map_err(Rejected::Cosignature)?;
                    cosigned.extend(time.map(|time| (text(name), time)));
                    time.is_some()
                }
                What::Group { needed, members } => {
                    let met = |member: &&usize| reached.get(**member).copied().unwrap_or(false);
                    members.iter().filter(met).count() >= *needed
                }
            });
        }
        match self.quorum {
            Some(quorum) if !reached.get(quorum).copied().unwrap_or(false) => {
                let found: Vec<&str> = cosigned.iter().map(|(name, _)| name.as_str()).collect();
                let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
                Err(Rejected::Quorum { needed: self.needs(quorum), found })
            }
            _ => Ok(Accepted { checkpoint, log, cosigned }),
        }
    }

    /// What a party needs, one level deep.
    fn needs(&self, at: usize) -> String {
        let name = |at: &usize| self.parties.get(*at).map(|party| text(&party.name)).unwrap_or_default();
        match self.parties.get(at).map(|party| &party.what) {
            Some(What::Group { needed, members }) => {
                let members: Vec<String> = members.iter().map(name).collect();
                format!("`{}` needs {needed} of {}", name(&at), members.join(", "))
            }
            _ => format!("`{}` must cosign", name(&at)),
        }
    }
}

#[derive(Default)]
struct Reader {
    logs: Vec<VerifierKey>,
    parties: Vec<Party>,
    names: BTreeMap<Vec<u8>, usize>,
    log_keys: BTreeSet<[u8; 32]>,
    witness_keys: BTreeSet<[u8; 32]>,
    /// Places of parties that are in a group.
    members: BTreeSet<usize>,
    quorum: Option<Option<usize>>,
}

impl Reader {
    fn line(&mut self, line: &[u8]) -> Result<(), BadLine> {
        if let Some(byte) = line.iter().find(|byte| (**byte < 0x20 && **byte != b'\t') || **byte == 0x7f) {
            return Err(BadLine::Control(*byte));
        }
        let words: Vec<&[u8]> =
            line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
        let Some((keyword, words)) = words.split_first().filter(|(first, _)| !first.starts_with(b"#")) else {
            return Ok(());
        };
        match *keyword {
            b"log" => self.log(words),
            b"witness" => self.witness(words),
            b"group" => self.group(words),
            b"quorum" => self.quorum(words),
            other => Err(BadLine::Keyword(text(other))),
        }
    }

    fn log(&mut self, words: &[&[u8]]) -> Result<(), BadLine> {
        let ([key] | [key, _]) = words else { return Err(BadLine::Form("log VKEY [URL]")) };
        let key = VerifierKey::parse(&text(key)).map_err(BadLine::Key)?;
        if !self.log_keys.insert(key.public()) {
            return Err(BadLine::Duplicate);
        }
        self.logs.push(key);
        Ok(())
    }

    fn witness(&mut self, words: &[&[u8]]) -> Result<(), BadLine> {
        let ([name, key] | [name, key, _]) = words else { return Err(BadLine::Form("witness NAME VKEY [URL]")) };
        let key = WitnessKey::parse(&text(key)).map_err(BadLine::Key)?;
        if !self.witness_keys.insert(key.public()) {
            return Err(BadLine::Duplicate);
        }
        self.define(name, What::Witness(key))
    }

    fn group(&mut self, words: &[&[u8]]) -> Result<(), BadLine> {
        let form = BadLine::Form("group NAME all|any|K MEMBER...");
        let [name, needed, names @ ..] = words else { return Err(form) };
        if names.is_empty() {
            return Err(form);
        }
        let needed = match *needed {
            b"all" => Some(names.len()),
            b"any" => Some(1),
            number => std::str::from_utf8(number)
                .ok()
                .and_then(crate::hash::decimal)
                .and_then(|needed| usize::try_from(needed).ok())
                .filter(|needed| (1..=names.len()).contains(needed)),
        };
        let needed = needed.ok_or(BadLine::Threshold { members: names.len() })?;
        let mut members = Vec::with_capacity(names.len());
        for name in names {
            let member = self.find(name)?;
            if !self.members.insert(member) {
                return Err(BadLine::Member(text(name)));
            }
            members.push(member);
        }
        self.define(name, What::Group { needed, members })
    }

    fn quorum(&mut self, words: &[&[u8]]) -> Result<(), BadLine> {
        let [name] = words else { return Err(BadLine::Form("quorum NAME|none")) };
        let quorum = if *name == NONE { None } else { Some(self.find(name)?) };
        match self.quorum.replace(quorum) {
            Some(_) => Err(BadLine::Quorum),
            None => Ok(()),
        }
    }

    fn find(&self, name: &[u8]) -> Result<usize, BadLine> {
        self.names.get(name).copied().ok_or_else(|| BadLine::Undefined(text(name)))
    }

    fn define(&mut self, name: &[u8], what: What) -> Result<(), BadLine> {
        if name == NONE || self.names.insert(name.to_vec(), self.parties.len()).is_some() {
            return Err(BadLine::Defined(text(name)));
        }
        self.parties.push(Party { name: name.to_vec(), what });
        Ok(())
    }
}

/// Names and keys for messages; keys are text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
