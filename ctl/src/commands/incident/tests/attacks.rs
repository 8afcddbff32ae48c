//! What somebody makes of a file who can make its list and its digests anew, but has no key of the node.

use super::{super::check::digest_of, *};
use failsafe_attest::{About, Fact, Json, PublicKey, Scope, Statement, Table, seal};
use failsafe_core::record::At;
use failsafe_journal::leaf_hash;

fn text(page: &str) -> String {
    page.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Forges a file, and expects that it is refused with this message.
fn refused(what: &str, expected: &str, change: impl FnOnce(&mut PartBytes)) {
    let exported = Node::new(LOSSES, Life::Ended).export();
    exported.forge(change);
    is_refused(&exported, what, expected);
}

fn is_refused(exported: &Exported, what: &str, expected: &str) {
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::NotValid, "{what}: {page}");
    assert!(text(&page).contains(expected), "{what}: expected `{expected}` in {page}");
}

/// The first part that `is`.
fn find(parts: &PartBytes, kind: &str) -> u64 {
    let is = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(&format!("\"kind\":\"{kind}\""));
    let found = parts.iter().find_map(|(name, bytes)| match name {
        Name::Entry(index) if is(bytes) => Some(*index),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn a_forged_file_that_changes_nothing_is_accepted() {
    let exported = Node::new(LOSSES, Life::Ended).export();
    exported.forge(|_| {});
    assert_eq!(exported.verify(Some(&keys(1))).0, Verdict::Proved);
}

/// Each part is bound to the log by more than the digests that a forger can make anew. Every seventh byte of each, because
/// each file has signatures to verify; `bytes.rs` changes every byte.
#[test]
fn no_part_can_be_changed_by_somebody_who_makes_the_digests_anew() {
    let exported = Node::new(LOSSES, Life::Ended).export();
    let original = exported.parts();
    for (name, bytes) in original.iter().filter(|(name, _)| !matches!(name, Name::Manifest | Name::Sums | Name::Keys)) {
        for at in (0..bytes.len()).step_by(7) {
            exported.forge_from(&original, |parts| parts.get_mut(name).unwrap()[at] ^= 1 << (at % 8));
            let (verdict, page) = exported.verify(Some(&keys(1)));
            assert!(
                matches!(verdict, Verdict::NotValid | Verdict::InPart | Verdict::NotProved),
                "byte {at} of {name}: {page}"
            );
        }
    }
}

#[test]
fn a_changed_entry_is_refused() {
    refused("other reason", "it is not in the log of the checkpoint", |parts| {
        let name = Name::Entry(find(parts, "decision"));
        let text = String::from_utf8(parts[&name].clone()).unwrap().replace("diverged", "divergee");
        parts.insert(name, text.into_bytes());
    });
    refused("no entry", "it is no entry of a log", |parts| {
        parts.insert(Name::Entry(find(parts, "decision")), b"{}".to_vec());
    });
}

#[test]
fn an_entry_of_another_log_is_refused() {
    let other = Node::new(&[2.0, 14.0, 3.0], Life::Ended).export().parts();
    refused("entry alone", "it is not in the log of the checkpoint", |parts| {
        let name = Name::Entry(find(parts, "decision"));
        parts.insert(name, other[&name].clone());
    });
    refused("with its proof", "its proof is for another checkpoint", |parts| {
        let index = find(parts, "decision");
        for name in [Name::Entry(index), Name::Proof(index)] {
            parts.insert(name, other[&name].clone());
        }
    });
}

#[test]
fn entries_that_were_moved_or_exchanged_are_refused() {
    refused("exchanged", "it says that it is entry", |parts| {
        let (a, b) = (Name::Entry(find(parts, "decision")), Name::Entry(find(parts, "outcome")));
        let (of_a, of_b) = (parts[&a].clone(), parts[&b].clone());
        parts.insert(a, of_b);
        parts.insert(b, of_a);
    });
    refused("proofs exchanged", "its proof is for another entry", |parts| {
        let (a, b) = (Name::Proof(find(parts, "decision")), Name::Proof(find(parts, "outcome")));
        let (of_a, of_b) = (parts[&a].clone(), parts[&b].clone());
        parts.insert(a, of_b);
        parts.insert(b, of_a);
    });
}

#[test]
fn a_removed_entry_is_noticed_by_its_proof_by_the_recording_or_as_missing() {
    refused("entry without its proof", "there is no entry to it", |parts| {
        parts.remove(&Name::Entry(find(parts, "decision")));
    });
    refused("decision", "there is no decision of incident", |parts| {
        let index = find(parts, "decision");
        parts.remove(&Name::Entry(index));
        parts.remove(&Name::Proof(index));
    });
    refused("outcome", "but no entry in the file has it: an entry was removed", |parts| {
        let index = find(parts, "outcome");
        parts.remove(&Name::Entry(index));
        parts.remove(&Name::Proof(index));
    });
    let exported = Node::new(LOSSES, Life::Ended).export();
    exported.forge(|parts| {
        let index = find(parts, "evidence");
        parts.remove(&Name::Entry(index));
        parts.remove(&Name::Proof(index));
    });
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::InPart, "{page}");
    assert!(text(&page).contains("the snapshot of decision 1 was taken, but its entry is not in the file"), "{page}");
    // Without the beginning of the run, nothing binds the recording.
    let exported = Node::new(LOSSES, Life::Ended).export();
    exported.forge(|parts| {
        let index = find(parts, "run");
        parts.remove(&Name::Entry(index));
        parts.remove(&Name::Proof(index));
    });
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::InPart, "{page}");
    assert!(text(&page).contains("nothing binds it to the log") && !page.contains("  replay "), "{page}");
    // Without its proof, an entry is somebody's word.
    let without_proof = |of: &str| {
        let exported = Node::new(LOSSES, Life::Ended).export();
        exported.forge(|parts| drop(parts.remove(&Name::Proof(find(parts, of)))));
        exported.verify(Some(&keys(1)))
    };
    for (of, expected) in [
        ("run", "the entries about the run, which have its hash, have no proof"),
        ("outcome", "2 outcomes in the recording: some of their entries have no proof"),
        ("evidence", "1 snapshot in entries without a proof"),
    ] {
        let (verdict, page) = without_proof(of);
        assert_eq!(verdict, Verdict::InPart, "{page}");
        assert!(text(&page).contains("1 entry without a proof") && text(&page).contains(expected), "{page}");
    }
    let (verdict, page) = without_proof("decision");
    assert_eq!(verdict, Verdict::NotProved, "{page}");
    assert!(page.contains("Consistent, but not proved") && !page.contains("\nProved\n"), "{page}");
}

#[test]
fn removed_parts_are_noticed_without_a_new_list() {
    let exported = Node::new(LOSSES, Life::Ended).export();
    let (manifest, sums) = (exported.parts()[&Name::Manifest].clone(), exported.parts()[&Name::Sums].clone());
    let with = |lists: &[(Name, &Vec<u8>)], change: &dyn Fn(&mut PartBytes)| {
        let mut parts = exported.parts();
        change(&mut parts);
        let digests = parts.iter().map(|(name, bytes)| {
            (
                *name,
                (bytes.len() as u64, super::super::parts::sha256(&Bytes(bytes.clone()), bytes.len() as u64).unwrap()),
            )
        });
        let mut digests: BTreeMap<Name, (u64, String)> = digests.collect();
        for (name, list) in lists {
            digests.insert(*name, (0, String::new()));
            parts.insert(*name, (*list).clone());
        }
        let by_sums = crate::bundle::manifest::check_sums(&parts[&Name::Sums], &digests);
        let by_list = Manifest::parse(&parts[&Name::Manifest], &digests);
        (by_sums.unwrap_err(), by_list.unwrap_err())
    };
    let gone = |parts: &mut PartBytes| drop(parts.remove(&Name::Policy));
    let lists = [(Name::Manifest, &manifest), (Name::Sums, &sums)];
    let (_, by_list) = with(&lists, &gone);
    assert_eq!(by_list, "policy.json: manifest.json lists it, but it is not there: it was removed");
    let added = |parts: &mut PartBytes| drop(parts.insert(Name::Recording(7), b"x".to_vec()));
    let (_, by_list) = with(&lists, &added);
    assert_eq!(by_list, "recordings/0007.fsrec: manifest.json does not list it: it was added");
    let (by_sums, _) = with(&[], &gone);
    assert_eq!(by_sums, "policy.json: SHA256SUMS lists it, but it is not there: it was removed");
    let (by_sums, _) = with(&[], &added);
    assert!(by_sums.contains("recordings/0007.fsrec: SHA256SUMS does not list it"), "{by_sums}");
}

#[test]
fn an_old_checkpoint_and_one_of_another_key_are_refused() {
    let node = Node::new(LOSSES, Life::Lives);
    let old = fs::read(node.path("log.checkpoint")).unwrap();
    let ended = Record::RunEnded {
        run: testing::run_id(),
        name: "trainer".into(),
        recording: None,
        suppressed: Vec::new(),
        unwatched: None,
        frozen_ns: None,
    };
    node.log(&[ended], 1);
    let exported = node.export();
    exported.forge(|parts| drop(parts.insert(Name::Checkpoint, old.clone())));
    is_refused(&exported, "an old checkpoint", "its proof is for another checkpoint than the one in the file");
    let exported = node.export();
    exported.forge(|parts| {
        let new = parts.insert(Name::Checkpoint, old.clone()).unwrap();
        for (name, bytes) in parts.iter_mut() {
            if let Name::Proof(_) = name {
                let before = bytes.strip_suffix(new.as_slice()).unwrap().to_vec();
                *bytes = [before, old.clone()].concat();
            }
        }
    });
    is_refused(&exported, "old everywhere", "is not in a tree of");
    let other = Node::new(LOSSES, Life::Ended);
    fs::remove_dir_all(other.path("audit")).unwrap();
    fs::remove_file(other.path("log.checkpoint")).unwrap();
    let entries = lived(LOSSES);
    let seal = RecordingSeal { part: 0, frames: 0, hash: None, complete: true, problem: None };
    other.log(&other.records(&entries, seal, Life::Ended), 2);
    let exported = other.export();
    is_refused(&exported, "another key", "no signature is by a known key");
}

#[test]
fn a_swapped_policy_is_refused() {
    let other = serde_json::to_vec(&parse("p", &POLICY.replace("10.0", "11.0")).unwrap()).unwrap();
    refused("policy", "it is another policy", |parts| drop(parts.insert(Name::Policy, other)));
}

#[test]
fn a_swapped_or_cut_recording_is_refused() {
    let refused_as = |what: &str, life: Life, entries: &[Recorded], expected: &str| {
        let forger = Node::new(LOSSES, Life::Ended);
        fs::remove_file(forger.recording()).unwrap();
        forger.record(entries, life);
        let bytes = fs::read(forger.recording()).unwrap();
        refused(what, expected, |parts| drop(parts.insert(Name::Recording(0), bytes)));
    };
    refused_as("another life", Life::Ended, &lived(&[2.0, 13.0, 3.0]), "decision 1 is not the one in the audit log");
    let more = lived(&[2.0, 12.0, 3.0, 4.0]);
    refused_as("more inputs", Life::Ended, &more, "frames, but it had");
    let whole = lived(LOSSES);
    refused_as("cut off", Life::Lives, &whole[..whole.len() - 1], "it was cut off");
    let stranger = Run { id: "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3e".parse().unwrap(), ..run() };
    let header = serde_json::json!({
        "format": "failsafe-recording", "version": 1, "engine": ENGINE, "part": 0, "run": stranger,
        "policy": parse("p", POLICY).unwrap(), "host": {}
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r");
    Recorder::create(&file, &header, 1 << 20).unwrap().finish().unwrap();
    let bytes = fs::read(&file).unwrap();
    refused("another run's", "no beginning of recording 0 with this run's name", |parts| {
        parts.insert(Name::Recording(0), bytes);
    });
}

/// While the run lives, the log has no hash of the recording. A forger can choose inputs freely, but they must lead to the decision.
#[test]
fn inputs_that_do_not_lead_to_the_decision_are_refused() {
    let node = Node::new(LOSSES, Life::Lives);
    let exported = node.export();
    fs::remove_file(node.recording()).unwrap();
    let forged: Vec<Recorded> = lived(LOSSES)
        .into_iter()
        .map(|entry| match entry {
            Recorded::Input(Input::Signal(signal)) if signal.seq == 2 => {
                Recorded::Input(Input::Signal(Signal { value: Value::Real(Real(2.5)), ..signal }))
            }
            other => other,
        })
        .collect();
    node.record(&forged, Life::Lives);
    let bytes = fs::read(node.recording()).unwrap();
    exported.forge(|parts| drop(parts.insert(Name::Recording(0), bytes)));
    is_refused(&exported, "forged inputs", "the recorded inputs do not lead to the decisions in the log");
}

#[test]
fn swapped_evidence_is_refused() {
    refused("evidence of another log", "it is not in the log of the checkpoint", |parts| {
        let name = Name::Entry(find(parts, "evidence"));
        let text = String::from_utf8(parts[&name].clone()).unwrap().replace("12500", "12501");
        parts.insert(name, text.into_bytes());
    });
}

#[test]
fn entries_that_do_not_belong_to_the_incident_are_refused() {
    let node = Node::new(&[2.0, 12.0, 3.0], Life::Ended);
    let stray = Record::Evidence {
        decision: 77,
        snapshot: match testing::evidence() {
            Record::Evidence { snapshot, .. } => snapshot,
            _ => panic!("no evidence"),
        },
    };
    node.log(&[stray], 1);
    let exported = node.export();
    let place =
        Place { daemon: &Target::Socket("/nowhere".into()), state_dir: node.folder.path(), zone: TimeZone::UTC };
    let log = crate::entry::log_file(place.state_dir);
    let all = crate::entry::load(&log, failsafe_journal::Filter::default()).unwrap();
    let extra = all.iter().rev().find(|entry| entry.kind == "evidence").unwrap();
    assert!(!exported.parts().contains_key(&Name::Entry(extra.index)));
    let mut gathered = Gathered::default();
    let note = fs::read(node.path("log.checkpoint")).unwrap();
    gathered.log(&place, Some(note), std::slice::from_ref(extra)).unwrap();
    let proof = {
        let content = &gathered.parts[&Name::Proof(extra.index)];
        let mut bytes = vec![0; content.len().unwrap() as usize];
        content.read_at(0, &mut bytes).unwrap();
        bytes
    };
    exported.forge(|parts| {
        parts.insert(Name::Entry(extra.index), extra.bytes.to_vec());
        parts.insert(Name::Proof(extra.index), proof);
    });
    is_refused(&exported, "stray evidence", "it does not belong to incident");
}

#[test]
fn a_stored_statement_counts_only_if_the_log_has_its_digest() {
    let (own, foreign) = (statement(testing::RUN, &[], 1), statement(testing::RUN, &[], 2));
    let logged = |at, envelope: &[u8]| Record::Statement {
        run: testing::run_id(),
        name: "trainer".into(),
        at,
        incident: (at == At::Incident).then(testing::incident),
        digest: Some(digest_of(envelope)),
        bytes: envelope.len() as u64,
        problem: None,
    };
    let file = |node: &Node, at: &str| node.path(&format!("runs/{}/statement-{at}.json", testing::RUN));
    let node = Node::new(LOSSES, Life::Ended);
    let incident_file = |node: &Node| file(node, &format!("incident-{}", testing::incident().n));
    fs::write(incident_file(&node), &own).unwrap();
    assert!(!node.export().parts().contains_key(&Name::Statement), "the log has no entry about it");
    node.log(&[logged(At::Incident, &own)], 1);
    let exported = node.export();
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::Proved, "{page}");
    assert!(text(&page).contains("stored by the daemon at the incident (entry "), "{page}");
    // Another one of the same run by the same key: that of its start, for example.
    let facts = vec![Fact::measured("run/id", "another", Ok(Json::from(testing::RUN)))];
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = PublicKey::from(key.verifying_key());
    let about =
        About { scope: Scope::Run, taken_ns: 7, version: "0.1.0", signer: Some(public), nonce: &[], regime: None };
    let payload = Statement::of(facts, &Table::built_in().unwrap(), &about).payload().unwrap();
    let other = seal(&payload, &public, |message| key.sign(message).to_bytes()).unwrap().into_bytes();
    for (swapped, expected) in [
        (other.clone(), "no entry about the incident or the end of the run has its digest"),
        (foreign, "is not in the list of allowed keys"),
    ] {
        exported.forge(|parts| drop(parts.insert(Name::Statement, swapped)));
        is_refused(&exported, expected, expected);
    }
    // A file that is not the one of the log is not taken; that of the end is.
    fs::write(incident_file(&node), &other).unwrap();
    assert!(!node.export().parts().contains_key(&Name::Statement));
    fs::write(file(&node, "end"), &other).unwrap();
    node.log(&[logged(At::End, &other)], 1);
    let (verdict, page) = node.export().verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::Proved, "{page}");
    assert!(text(&page).contains("stored by the daemon at the end of the run"), "{page}");
}

/// A statement of a run, for a nonce.
fn statement(run: &str, nonce: &[u8], seed: u8) -> Vec<u8> {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = PublicKey::from(key.verifying_key());
    let facts = vec![Fact::measured("run/id", "a test", Ok(Json::from(run)))];
    let about = About { scope: Scope::Run, taken_ns: 1, version: "0.1.0", signer: Some(public), nonce, regime: None };
    let payload = Statement::of(facts, &Table::built_in().unwrap(), &about).payload().unwrap();
    seal(&payload, &public, |message| key.sign(message).to_bytes()).unwrap().into_bytes()
}

#[test]
fn a_statement_counts_only_for_the_incident_that_it_was_made_for() {
    let exported = Node::new(LOSSES, Life::Ended).export();
    let parts = exported.parts();
    let nonce = leaf_hash(&parts[&Name::Entry(find(&parts, "decision"))]);
    let with = |statement: Vec<u8>| exported.forge(|parts| drop(parts.insert(Name::Statement, statement)));
    with(statement(testing::RUN, &nonce, 1));
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::Proved, "{page}");
    assert!(text(&page).contains("1 factors of what the run computed with"), "{page}");
    for (other, expected) in [
        (statement(testing::RUN, &[7; 32], 1), "it was not made for this incident"),
        (statement("01936f2e-7b1c-7e50-8000-5f0c9a1b2c3e", &nonce, 1), "it is not a statement of run"),
        (statement(testing::RUN, &nonce, 2), "is not in the list of allowed keys"),
        (b"{}".to_vec(), "the envelope cannot be read"),
    ] {
        with(other);
        is_refused(&exported, expected, expected);
    }
}
