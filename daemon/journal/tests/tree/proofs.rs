//! Proofs of entries, and damage that verification detects.

use super::*;

#[test]
fn every_entry_is_proved_and_nothing_else() {
    let state = State::new();
    state.write(0, 60);
    let entries = state.entries();
    let note = fs::read(state.latest()).unwrap();
    let checkpoint = || Checkpoint::open(&note, &keys()).unwrap().0;
    for (index, entry) in Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().enumerate() {
        let proof = prove::prove(&state.dir(), index as u64, checkpoint(), note.clone()).unwrap();
        assert_eq!(proof.verify(&keys()).unwrap().entry, *entry.unwrap().bytes);
    }
    let text = |index: u64, state: &State| {
        prove::prove(&state.dir(), index, checkpoint(), note.clone()).unwrap_err().to_string()
    };
    assert!(text(entries, &state).contains("not covered by the checkpoint"));
    let other = State::new();
    copy_dir(&forged(200).dir(), &other.dir());
    assert!(text(3, &other).contains("does not fit the checkpoint"));
}

#[test]
fn every_changed_byte_of_a_small_log_is_detected() {
    let state = State::new();
    state.write(0, 3);
    let path = state.dir().join(LOG_FILE);
    let (good, claims) = (fs::read(&path).unwrap(), state.claims());
    let verdict = || verify_claims(&state.dir(), None, &claims).unwrap().verdict;
    assert_eq!(verdict(), Verdict::Ok);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, bad).unwrap();
        assert_ne!(verdict(), Verdict::Ok, "byte {at}");
        fs::write(&path, &good[..at]).unwrap();
        assert_ne!(verdict(), Verdict::Ok, "cut off at byte {at}");
    }
}

/// What retention removed stays part of the tree; what is left is proved against it.
#[test]
fn entries_behind_a_removal_are_proved_in_the_same_tree() {
    let state = State::new();
    let spawn = |retention| {
        let options = Options {
            live: Some(Box::new(|| Some(std::collections::BTreeSet::new()))),
            signing: Some(Signing {
                name: "failsafe.test/node".into(),
                signer: Box::new(|_| Ok(Box::new(signer()))),
                every: Duration::from_secs(3600),
            }),
            clock: Box::new(stamp(0)),
            ..Options::default()
        };
        let folder = LogFolder::open(&state.dir(), state.layout(retention)).unwrap();
        AuditWriter::spawn_on(folder, options).unwrap()
    };
    let fill = |writer: AuditWriter, n: u64| {
        for n in 0..n {
            let draft = Draft::new("run", stamp(n), json!({ "n": n, "text": "x".repeat(200) }));
            writer.handle().submit(&draft).wait(Duration::from_secs(10)).unwrap();
        }
        writer.shutdown(Duration::from_secs(10)).unwrap();
    };
    fill(spawn(Retention::default()), 100);
    let origin = state.signed().origin;
    // All entries, as they were before the removal.
    let mut leaves: Vec<[u8; 32]> = Search::open(&state.dir().join(LOG_FILE), Query::default())
        .unwrap()
        .map(|entry| entry.unwrap().leaf_hash)
        .collect();
    fill(spawn(SMALL), 1);
    fill(spawn(SMALL), 1);
    let all: Vec<_> = Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().flatten().collect();
    let first = all.first().unwrap().index;
    assert!(first > 20, "{first}");
    let known = leaves.len() as u64;
    leaves.extend(all.iter().filter(|entry| entry.index >= known).map(|entry| entry.leaf_hash));
    let mut whole = Frontier::new();
    leaves.iter().for_each(|leaf| whole.push(*leaf));
    let signed = state.signed();
    assert_eq!((&signed.origin, signed.first, signed.size, signed.root), (&origin, 0, whole.size(), whole.root()));
    assert_eq!(state.verdict(), Verdict::Ok);
    let note = fs::read(state.latest()).unwrap();
    let prove =
        |index: u64| prove::prove(&state.dir(), index, Checkpoint::open(&note, &keys()).unwrap().0, note.clone());
    for entry in &all {
        assert_eq!(prove(entry.index).unwrap().verify(&keys()).unwrap().entry, *entry.bytes);
    }
    assert!(prove(first - 1).unwrap_err().to_string().contains("removed by retention"));
    // Without the edge there the tree cannot be continued, which is reported.
    fs::remove_file(edge::edge_path(&state.dir(), first)).unwrap();
    for path in fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "tree") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(matches!(state.verdict(), Verdict::Segment(why) if why.contains("cannot be continued")));
    assert!(state.findings().iter().any(|finding| finding.contains("missing or damaged")));
}
