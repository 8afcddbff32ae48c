//! The list of the parts, and the digests of all of them. Neither proves anything: they show damage, and name what is what.

use super::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the file is.
pub const FORMAT: &str = "failsafe-incident";
/// Version of the format that this program writes and reads.
pub const VERSION: u32 = 1;

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The incident.
    pub incident: String,
    /// The id of its run.
    pub run: String,
    /// When the file was made, nanoseconds since the epoch, by the clock of the node.
    pub exported_ns: u64,
    /// What made it.
    pub producer: Producer,
    /// The other parts, in their order; `SHA256SUMS` is not among them.
    pub parts: Vec<Part>,
    /// What could not be put into it.
    pub missing: Vec<Missing>,
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// `failsafectl`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The engine that it replays with.
    pub engine: u32,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the archive.
    pub name: String,
    /// What it is.
    pub media_type: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// The part that proves it, or `signature`; none: nothing in the file does.
    pub proved_by: Option<String>,
}

/// Something that is not in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What: the name of the part.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Manifest {
    /// Its text.
    pub fn encode(&self) -> Vec<u8> {
        // Texts and integers always have a JSON form.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads it, and compares its list with the parts that are there, by name, with their sizes and digests.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &[u8], found: &BTreeMap<Name, (u64, String)>) -> Result<Manifest, String> {
        let manifest: Manifest =
            serde_json::from_slice(text).map_err(|error| format!("manifest.json cannot be read: {error}"))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let (format, version) = (&manifest.format, manifest.version);
            return Err(format!(
                "manifest.json: format {format} version {version} is not known; this is version {VERSION}"
            ));
        }
        let mut listed = manifest.parts.iter();
        for (name, (bytes, sha256)) in found.iter().filter(|(name, _)| !matches!(name, Name::Manifest | Name::Sums)) {
            match listed.next() {
                Some(part) if part.name == name.to_string() => {
                    if part.bytes != *bytes || part.sha256 != *sha256 {
                        return Err(format!(
                            "{name}: it is not the part that manifest.json lists: its digest is {sha256}"
                        ));
                    }
                }
                Some(part) => {
                    let missing = Name::parse(&part.name).is_some_and(|part| !found.contains_key(&part));
                    return Err(match missing {
                        true => format!("{}: manifest.json lists it, but it is not there: it was removed", part.name),
                        false => format!("{name}: manifest.json does not list it: it was added"),
                    });
                }
                None => return Err(format!("{name}: manifest.json does not list it: it was added")),
            }
        }
        match listed.next() {
            None => Ok(manifest),
            Some(part) => Err(format!("{}: manifest.json lists it, but it is not there: it was removed", part.name)),
        }
    }
}

/// `SHA256SUMS` of these parts, as `sha256sum -c` reads it.
pub fn sums(of: &BTreeMap<Name, (u64, String)>) -> String {
    let parts = of.iter().filter(|(name, _)| **name != Name::Sums);
    parts.map(|(name, (_, sha256))| format!("{sha256}  {name}\n")).collect()
}

/// Compares the digests with `SHA256SUMS`.
///
/// # Errors
/// The first part that differs, in words.
pub fn check_sums(text: &[u8], of: &BTreeMap<Name, (u64, String)>) -> Result<(), String> {
    let expected = sums(of);
    if expected.as_bytes() == text {
        return Ok(());
    }
    let text = String::from_utf8_lossy(text);
    let digest_of = |name: &str| text.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix("  "));
    for (name, (_, sha256)) in of.iter().filter(|(name, _)| **name != Name::Sums) {
        match digest_of(&name.to_string()) {
            Some(listed) if listed == sha256 => {}
            Some(_) => {
                return Err(format!("{name}: its SHA-256 is not the one in SHA256SUMS: one of them was changed"));
            }
            None => {
                return Err(format!("{name}: SHA256SUMS does not list it: it was added, or SHA256SUMS was changed"));
            }
        }
    }
    let lost = text.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| name);
    match lost.filter_map(Name::parse).find(|name| !of.contains_key(name)) {
        Some(name) => Err(format!("{name}: SHA256SUMS lists it, but it is not there: it was removed")),
        None => Err("SHA256SUMS was changed".to_owned()),
    }
}
