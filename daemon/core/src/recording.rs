//! How a [`Recorded`] is written to a recording: enum variants by the numbers of [`numbers`], fields in the order of the source.
//!
//! ```text
//!  Recorded ─► Numbering (name of the variant ─► number) ─► postcard ─► frame
//!  frame ─► postcard ─► Naming (number ─► name of the variant) ─► Recorded
//! ```
//!
//! Invariants: adding, moving or renaming a variant in the source does not change how others are read. A number that the table does
//! not have is reported by name ([`Reading::unknown`]), not as damage. Recordings before version 9 are read with the layout that they have. Text formats (the audit log) write names and are not concerned.

mod naming;
mod numbering;
mod numbers;

use crate::replay::Recorded;
use naming::Naming;
use numbering::Numbering;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeSeed};
use std::{cell::Cell, fmt};

impl Serialize for Recorded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return Recorded::serialize(self, serializer);
        }
        Recorded::serialize(self, Numbering(serializer))
    }
}

impl<'de> Deserialize<'de> for Recorded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Recorded, D::Error> {
        Reading::default().deserialize(deserializer)
    }
}

/// The first version of recordings that has an [`Actor`](crate::Actor). Earlier ones have a user id and a process id there.
const WITH_ACTORS: u32 = 9;

/// Reads one [`Recorded`], and keeps why it could not: binary formats lose the text of an error.
#[derive(Debug)]
pub struct Reading {
    has_actors: bool,
    unknown: Cell<Option<Unknown>>,
}

impl Default for Reading {
    /// Of the current version.
    fn default() -> Reading {
        Reading::of(u32::MAX)
    }
}

/// A number in a recording that this program has no variant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    /// The enum.
    pub name: &'static str,
    /// The number.
    pub number: u32,
    /// The variant that had the number, where this program no longer has it.
    pub variant: Option<&'static str>,
}

impl Reading {
    /// Of recordings of this version.
    pub fn of(version: u32) -> Reading {
        Reading { has_actors: version >= WITH_ACTORS, unknown: Cell::default() }
    }

    /// What the last entry that could not be read has, and this program does not know.
    pub fn unknown(&self) -> Option<Unknown> {
        self.unknown.get()
    }
}

impl<'de> DeserializeSeed<'de> for &Reading {
    type Value = Recorded;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Recorded, D::Error> {
        self.unknown.set(None);
        if deserializer.is_human_readable() {
            return Recorded::deserialize(deserializer);
        }
        Recorded::deserialize(Naming { inner: deserializer, reading: self })
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unknown { name, number, variant } = self;
        match variant {
            Some(variant) => write!(f, "it has {name} number {number} ({variant}), which this program no longer knows"),
            None => write!(f, "it has {name} number {number}, which this program does not know"),
        }
    }
}

#[cfg(test)]
mod tests;
