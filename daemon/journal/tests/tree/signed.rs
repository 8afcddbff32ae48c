//! What is signed of the tree, also after a crash and of a silent log.

use super::*;

#[test]
fn what_is_signed_is_the_tree_of_the_stored_entries_and_goes_on_after_a_restart() {
    let state = State::new();
    state.write(0, 50);
    let first = state.signed();
    assert_eq!((first.first, first.size), (0, state.entries()));
    assert_eq!(first.root, naive(&state.dir(), first.size));
    assert!(first.origin.starts_with("failsafe.test/node/log/"));
    let borders = sealed(&state.dir());
    assert!(borders.len() > 3);
    for border in &borders[1..] {
        let at_border = read_signed(&checkpoint_path(&state.dir(), *border));
        assert_eq!((at_border.size, at_border.root), (*border, naive(&state.dir(), *border)));
    }
    state.write(50, 120);
    let second = state.signed();
    assert_eq!(second.origin, first.origin);
    assert_eq!((second.size, second.root), (state.entries(), naive(&state.dir(), second.size)));
    let report = verify_claims(&state.dir(), None, &state.claims()).unwrap();
    let tree = report.tree.unwrap();
    assert_eq!((report.verdict, tree.size, tree.root, tree.removed), (Verdict::Ok, second.size, second.root, 0));
    assert_eq!(tree.contained, state.claims().len());
    assert_eq!(state.findings(), [""; 0]);
}

/// A power cut at each step of keeping a checkpoint and an edge.
#[test]
fn a_crash_while_a_checkpoint_is_written_loses_none() {
    let state = State::new();
    state.write(0, 40);
    let (before, old) = (state.signed(), fs::read(state.latest()).unwrap());
    let mut log = state.open().0;
    let borders = sealed(&state.dir()).len();
    let mut n = 40;
    while sealed(&state.dir()).len() == borders {
        write(&mut log, n, n + 1);
        n += 1;
    }
    log.sign(&signer(), false).unwrap();
    drop(log);
    let border = fs::read_dir(state.dir()).unwrap().flatten();
    let border = border.filter_map(|e| e.path().file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap();
    let new = fs::read(state.latest()).unwrap();
    let part = |path: &Path| PathBuf::from(format!("{}.part", path.display()));
    // Written in part, next to the old one.
    for cut in (0..new.len()).step_by(7) {
        let crashed = state.copy();
        fs::write(crashed.latest(), &old).unwrap();
        fs::write(part(&crashed.latest()), &new[..cut]).unwrap();
        fs::remove_file(checkpoint_path(&crashed.dir(), border)).unwrap();
        let (mut log, recovery) = crashed.open();
        assert_eq!(recovery.findings, [""; 0], "cut at {cut}");
        assert_eq!(log.signed(), before.entries());
        assert!(log.sign(&signer(), false).unwrap());
        assert_eq!(crashed.signed().root, naive(&crashed.dir(), crashed.entries()));
    }
    // Without the edge, the checkpoint of the border, or both; with a part of each.
    for missing in 0..4 {
        let crashed = state.copy();
        for (at, path) in
            [edge::edge_path(&crashed.dir(), border), checkpoint_path(&crashed.dir(), border)].iter().enumerate()
        {
            if missing & (1 << at) != 0 {
                let bytes = fs::read(path).unwrap();
                fs::remove_file(path).unwrap();
                fs::write(part(path), &bytes[..bytes.len() / 2]).unwrap();
            }
        }
        crashed.write(n, n + 30);
        assert_eq!(crashed.findings(), [""; 0], "missing {missing}");
        assert_eq!(crashed.signed().root, naive(&crashed.dir(), crashed.entries()));
        assert_eq!(crashed.verdict(), Verdict::Ok);
    }
}

#[test]
fn a_silent_log_has_a_heartbeat_and_a_checkpoint_of_it() {
    let state = State::new();
    let options = Options {
        signing: Some(Signing {
            name: "failsafe.test/node".into(),
            signer: Box::new(|_| Ok(Box::new(signer()))),
            every: Duration::from_millis(1),
        }),
        heartbeat: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let folder = LogFolder::open(&state.dir(), state.layout(Retention::default())).unwrap();
    let writer = AuditWriter::spawn_on(folder, options).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while writer.handle().tree().signed < 3 {
        assert!(std::time::Instant::now() < deadline, "{:?}", writer.handle().tree());
        std::thread::sleep(Duration::from_millis(5));
    }
    writer.shutdown(Duration::from_secs(10)).unwrap();
    let all: Vec<_> = Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().flatten().collect();
    assert!(all.iter().all(|entry| entry.kind == "heartbeat" && entry.body["silent_ms"].as_u64() >= Some(20)));
    assert!(all.iter().any(|entry| entry.body["signed"].as_u64() > Some(0)), "{all:?}");
    assert_eq!(state.signed().entries(), all.len() as u64, "the last checkpoint is of the whole log");
}
