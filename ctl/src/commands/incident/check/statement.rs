//! The statement of the run. It was signed for this file: then its nonce is the hash of the entry that opened the incident. Or the
//! daemon stored it at the incident or at the end of the run: then it has no nonce, and an entry of the log has its digest.

use super::{Findings, Incident, Known, Logged, Name, Parts, Record};
use crate::exit::chain;
use failsafe_attest::{Json, Scope, Statement, Status, envelope};
use failsafe_core::record::At;
use failsafe_journal::{Hash, leaf_hash};
use sha2::{Digest, Sha256};

pub(super) fn check(
    parts: &Parts,
    incident: &Incident<'_>,
    keys: Option<&Known>,
    entries: &[Logged],
    findings: &mut Findings,
) {
    let name = Name::Statement.to_string();
    let Some(text) = parts.get(Name::Statement) else {
        let why = parts.why_missing(&name).unwrap_or("no reason is given");
        findings.not_proved.push(("statement", format!("what the run computed with: there is no statement: {why}")));
        return;
    };
    let Some(keys) = keys else { return };
    let verified = keys.allowed().and_then(|keys| envelope::verify(text, Some(&keys)).map_err(|error| chain(&error)));
    let made =
        |statement: &Statement| of_run(statement, incident).and_then(|()| made(statement, text, incident, entries));
    match verified.and_then(|verified| made(&verified.statement).map(|made| (verified, made))) {
        Ok((verified, made)) => {
            let factors = verified.statement.predicate.factors.len();
            let taken = match made {
                Made::ForThis => "taken after the incident began".to_owned(),
                Made::Stored(at, entry) => {
                    let of = if at == At::End { "the end of the run" } else { "the incident" };
                    format!("stored by the daemon at {of} (entry {entry} has its digest)")
                }
            };
            let text = format!(
                "{factors} factors of what the run computed with, {taken}, signed by key {}",
                verified.key.id()
            );
            match (&findings.key, made) {
                (_, Made::Stored(_, entry)) if findings.unproved.contains(&entry) => {
                    findings.lacks("statement", format!("{text}; there is no proof of the entry"));
                }
                (Some(of_log), _) if of_log.id != verified.key.id().0 => {
                    let why =
                        "the log is signed by another key: the key was replaced between them, or it is of another node";
                    findings.lacks("statement", format!("{text}; {why}"));
                }
                _ => findings.proved.push(("statement", text)),
            }
        }
        Err(why) => findings.problem(format!("{name}: {why}")),
    }
}

fn of_run(statement: &Statement, incident: &Incident<'_>) -> Result<(), String> {
    let value = |path: &str| match statement.factor(path) {
        Some(factor) if factor.status == Status::Ok => match &factor.value {
            Json::Text(text) => text.clone(),
            other => other.to_string(),
        },
        _ => String::new(),
    };
    if statement.predicate.scope != Scope::Run || value("run/id") != incident.run_id {
        return Err(format!("it is not a statement of run {}", incident.run_id));
    }
    Ok(())
}

/// How a statement belongs to an incident.
#[derive(Clone, Copy)]
enum Made {
    /// It has the nonce of the incident.
    ForThis,
    /// It was stored; this entry has its digest.
    Stored(At, u64),
}

fn made(statement: &Statement, text: &[u8], incident: &Incident<'_>, entries: &[Logged]) -> Result<Made, String> {
    let nonce = statement.predicate.nonce.as_str();
    if nonce == hex::encode(self::nonce(incident)) {
        return Ok(Made::ForThis);
    }
    if !nonce.is_empty() {
        let why = "it was not made for this incident: its nonce is not the hash of the entry that opened it";
        return Err(why.to_owned());
    }
    let digest = digest_of(text);
    let named = entries.iter().filter_map(|entry| Some((entry.index, stated(entry, incident)?)));
    let mut named = named.filter(|(_, stated)| stated.digest == Some(digest.as_str()));
    named.next().map(|(entry, stated)| Made::Stored(stated.at, entry)).ok_or_else(|| {
        "it was not made for this incident: it has no nonce, and no entry about the incident or the end of the run has its digest"
            .to_owned()
    })
}

/// What an entry says of a stored statement.
pub(in crate::commands::incident) struct Stated<'a> {
    pub at: At,
    pub digest: Option<&'a str>,
    pub problem: Option<&'a str>,
}

/// What an entry says of the stored statement of this incident, or of the end of its run.
pub(in crate::commands::incident) fn stated<'a>(entry: &'a Logged, incident: &Incident<'_>) -> Option<Stated<'a>> {
    match entry.record()? {
        Record::Statement { run, at, incident: of, digest, problem, .. }
            if run.to_string() == incident.run_id && (*at == At::End || *of == Some(incident.id)) =>
        {
            Some(Stated { at: *at, digest: digest.as_deref(), problem: problem.as_deref() })
        }
        _ => None,
    }
}

/// The digest of an envelope, as the log has it.
pub(in crate::commands::incident) fn digest_of(envelope: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(envelope)))
}

/// The nonce of a statement for this incident.
pub(in crate::commands::incident) fn nonce(incident: &Incident<'_>) -> Hash {
    leaf_hash(&incident.opened_by().entry.bytes)
}
