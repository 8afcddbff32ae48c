//! `incident`: incidents as the daemon has them; one incident as one file, and what that file proves on any machine.
//!
//! ```text
//!  export:  log, recordings, policy, statement ─► gather ─► write ─► the same checks as verify
//!  verify:  file ─► parts (form, digests) ─► check (log ─► policy ─► replay ─► evidence ─► statement) ─► page
//! ```
//!
//! Invariant: `verify` reads the file and the list of keys, and nothing else of the machine that it runs on.

mod check;
mod export;
mod gather;
pub(super) mod live;
mod parts;
#[cfg(test)]
mod tests;

pub(super) use export::export;

use super::{Place, log::keys::Known};
use crate::{
    args::IncidentVerifyArgs,
    exit::{Exit, Fail},
    incident::Incident,
    render::{
        Paint,
        bundle::{Findings, Page, Verdict},
        clean, json, print,
    },
};
use failsafe_attest::key::MAX_KEYS_FILE;
use failsafe_journal::storage::bounded::open_regular;
use nix::fcntl::OFlag;
use parts::Parts;
use std::{fs::OpenOptions, path::Path};

pub(super) fn verify(place: &Place<'_>, args: &IncidentVerifyArgs) -> Result<Exit, Fail> {
    let keys = args.keys.as_deref().map(listed).transpose()?;
    let found = read(&args.file, keys.as_ref())?;
    let incident = found.incident();
    let page = Page { file: &args.file, findings: &found.findings, incident: incident.as_ref(), zone: &place.zone };
    print(&if args.output.json() { json::text(&page.json()) } else { page.text(Paint::stdout()) })?;
    Ok(match found.findings.verdict() {
        Verdict::Proved => Exit::Done,
        Verdict::InPart | Verdict::NotProved => Exit::Partial,
        Verdict::KeyNotChecked => Exit::KeyNotChecked,
        Verdict::NotValid => Exit::Tampered,
    })
}

/// Checks a file.
fn read(file: &Path, keys: Option<&Known>) -> Result<check::Checked, Fail> {
    let shown = clean(&file.display().to_string());
    let failed = |error: std::io::Error| Fail::because(format!("cannot read {shown}"), &error);
    // A pipe would wait for a writer.
    let opened = open_regular(file, OpenOptions::new().read(true), OFlag::empty());
    let opened = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Fail::usage(format!("{shown} is no file")),
        _ => failed(error),
    })?;
    Ok(match Parts::read(opened) {
        Ok(parts) => check::all(&parts, keys),
        Err(problem) => {
            let mut findings = Findings::default();
            findings.problem(problem);
            check::Checked { findings, incident: None, entries: Vec::new() }
        }
    })
}

impl check::Checked {
    /// The incident, by the entries that are in order.
    fn incident(&self) -> Option<Incident<'_>> {
        Incident::gather(self.incident?, &self.entries)
    }
}

/// The keys that the verifier allows.
fn listed(file: &Path) -> Result<Known, Fail> {
    let bytes = super::log::read(file, "list of keys", MAX_KEYS_FILE)?;
    let shown = clean(&file.display().to_string());
    Known::parse(&bytes, false).map_err(|why| Fail::usage(format!("{shown}: {why}")))
}
