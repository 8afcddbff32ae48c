//! The statement of the run, which was signed for this file: its nonce is the hash of the entry that opened the incident.

use super::{Findings, Incident, Known, Name, Parts};
use crate::exit::chain;
use failsafe_attest::{Json, Scope, Statement, Status, envelope};
use failsafe_journal::{Hash, leaf_hash};

pub(super) fn check(parts: &Parts, incident: &Incident<'_>, keys: Option<&Known>, findings: &mut Findings) {
    let name = Name::Statement.to_string();
    let Some(text) = parts.get(Name::Statement) else {
        let why = parts.why_missing(&name).unwrap_or("no reason is given");
        findings.not_proved.push(("statement", format!("what the run computed with: there is no statement: {why}")));
        return;
    };
    let Some(keys) = keys else { return };
    let verified = keys.allowed().and_then(|keys| envelope::verify(text, Some(&keys)).map_err(|error| chain(&error)));
    match verified.and_then(|verified| of_run(&verified.statement, incident).map(|()| verified)) {
        Ok(verified) => {
            let factors = verified.statement.predicate.factors.len();
            let text = format!(
                "{factors} factors of what the run computed with, taken after the incident began, signed by key {}",
                verified.key.id()
            );
            match &findings.key {
                Some(of_log) if of_log.id != verified.key.id().0 => {
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
    match statement.predicate.nonce == hex::encode(nonce(incident)) {
        true => Ok(()),
        false => {
            Err("it was not made for this incident: its nonce is not the hash of the entry that opened it".to_owned())
        }
    }
}

/// The nonce of a statement for this incident.
pub(in crate::commands::incident) fn nonce(incident: &Incident<'_>) -> Hash {
    leaf_hash(&incident.opened_by().entry.bytes)
}
