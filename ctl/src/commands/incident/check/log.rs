//! The checkpoint, and each entry against it.

use super::{Findings, IncidentId, Known, Logged, Name, Parts, Record, belongs, key, named};
use crate::{exit::chain, incident::Incident, render::count};
use failsafe_journal::{Entry, leaf_hash, tree::SignedTree};
use failsafe_tlog::{Checkpoint, ProofFile, proof::verify_inclusion};

/// Checks the checkpoint and the entries. Returns the entries without contradiction, in the order of the log.
pub(super) fn check(
    parts: &Parts,
    id: IncidentId,
    keys: Option<&Known>,
    is_allowed: bool,
    findings: &mut Findings,
) -> Vec<Logged> {
    let tree = checkpoint(parts, keys, is_allowed, findings);
    let (mut entries, mut without) = (Vec::new(), Vec::new());
    for (index, bytes) in parts.entries() {
        let entry = match Entry::parse(bytes) {
            Ok(entry) => entry,
            Err(error) => {
                findings.problem(format!("{}: it is no entry of a log: {error}", Name::Entry(index)));
                continue;
            }
        };
        match proved(parts, index, &entry, tree.as_ref()) {
            Ok(true) => {}
            Ok(false) => without.push(index),
            Err(why) => {
                findings.problem(format!("{}: {why}", Name::Entry(index)));
                continue;
            }
        }
        if entry.run.as_deref() != Some(parts.manifest.run.as_str()) {
            findings.problem(format!("{}: it is about another run", Name::Entry(index)));
            continue;
        }
        entries.push(Logged::from(entry));
    }
    if let Some(index) = parts.proofs().find(|index| parts.get(Name::Entry(*index)).is_none()) {
        findings.problem(format!("{}: there is no entry to it: the entry was removed", Name::Proof(index)));
    }
    if let Some(incident) = Incident::gather(id, &entries) {
        for entry in entries.iter().filter(|entry| !belongs(entry, &incident)) {
            findings.problem(format!("{}: it does not belong to incident {id}", Name::Entry(entry.index)));
        }
    }
    findings.unproved = without.iter().copied().collect();
    let is_decision = |entry: &&Logged| matches!(entry.record(), Some(Record::Decision { .. }));
    findings.decision_unproved = entries.iter().filter(is_decision).any(|e| findings.unproved.contains(&e.index));
    let with = entries.len().saturating_sub(without.len());
    if let (Some(tree), Some(key), true) = (&tree, &findings.key, with > 0) {
        let text = format!(
            "{} as the node wrote them, in the log {} of {} entries, signed by {}",
            count(with, "entry", "entries"),
            tree.origin,
            tree.entries(),
            named(key)
        );
        findings.proved.push(("log", text));
    }
    if !without.is_empty() {
        let list: Vec<String> = without.iter().take(10).map(u64::to_string).collect();
        findings.lacks(
            "log",
            format!(
                "{} without a proof, beginning with {}: anybody could have written them",
                count(without.len(), "entry", "entries"),
                list.join(", ")
            ),
        );
    }
    entries
}

fn checkpoint(parts: &Parts, keys: Option<&Known>, is_allowed: bool, findings: &mut Findings) -> Option<SignedTree> {
    let Some(note) = parts.get(Name::Checkpoint) else {
        let why = parts.why_missing(&Name::Checkpoint.to_string()).unwrap_or("no reason is given");
        findings.lacks("log", format!("there is no signed checkpoint: {why}"));
        return None;
    };
    let Some(keys) = keys else {
        findings.lacks("log", "there is no key to verify the checkpoint with: give a list with --keys");
        return None;
    };
    let opened = Checkpoint::open(note, &keys.keys).map_err(|error| chain(&error));
    let opened = opened.and_then(|(checkpoint, by)| {
        let tree = SignedTree::of(checkpoint).ok_or("its origin names no first entry of a log")?;
        Ok((tree, by))
    });
    match opened {
        Ok((tree, by)) => {
            findings.key = Some(key(keys, &by, is_allowed));
            Some(tree)
        }
        Err(why) => {
            findings.problem(format!("{}: {why}", Name::Checkpoint));
            None
        }
    }
}

/// Whether there is a proof of the entry.
fn proved(parts: &Parts, index: u64, entry: &Entry, tree: Option<&SignedTree>) -> Result<bool, String> {
    if entry.index != index {
        return Err(format!("it says that it is entry {}: it was moved", entry.index));
    }
    let (Some(text), Some(tree)) = (parts.get(Name::Proof(index)), tree) else { return Ok(false) };
    let proof = ProofFile::parse(text).map_err(|error| format!("its proof cannot be read: {error}"))?;
    if parts.get(Name::Checkpoint) != Some(proof.checkpoint.as_slice()) {
        return Err("its proof is for another checkpoint than the one in the file".to_owned());
    }
    if proof.extra.is_some() || tree.first.checked_add(proof.index) != Some(index) {
        return Err(format!("its proof is for another entry (leaf {})", proof.index));
    }
    verify_inclusion(proof.index, tree.size, &leaf_hash(&entry.bytes), &proof.hashes, &tree.root)
        .map_err(|error| format!("it is not in the log of the checkpoint: {error}, or is of another log"))?;
    Ok(true)
}
