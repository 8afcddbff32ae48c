//! `log archive`, and its verification without the node.

use crate::{
    log::State,
    support::{err, out},
};
use failsafe_journal::segments::sealed;
use failsafe_tlog::tile;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn all(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => all(&entry, found),
            false => drop(found.insert(entry.clone(), fs::read(&entry).unwrap())),
        }
    }
}

/// The files of the archive `a`, by path.
fn files(state: &State) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    all(&state.path("a"), &mut found);
    found
}

fn verdict(state: &State, line: &str) -> (Option<i32>, String) {
    let output = state.ctl(line);
    (output.status.code(), format!("{}{}", out(&output), err(&output)))
}

#[test]
fn an_archive_grows_with_the_log_and_is_verified_without_it() {
    let state = State::new("text", 1);
    assert!(state.ok("log archive a").contains("nothing to archive"));
    assert!(!state.path("a").exists());
    state.write("text", 300);
    let text = state.ok("log archive a");
    assert!(text.contains("a: entries 0 to "), "{text}");
    let first = files(&state);
    assert!(state.ok("log archive a").contains("written  0 files"), "it is there already");
    assert_eq!(files(&state), first);
    fs::copy(state.path("log.keys"), state.path("trusted")).unwrap();
    assert!(state.ok("log verify --archive a --keys trusted").contains("a: intact"));

    state.write("more", 300);
    state.ok("log archive a");
    let second = files(&state);
    let kept = first.iter().filter(|(path, _)| !path.ends_with("a/checkpoint"));
    assert!(kept.into_iter().all(|(path, bytes)| second[path] == *bytes), "files that were there stay as they are");
    assert!(second.len() > first.len());
    // Other tools of transparency logs find the entries and their hashes.
    let bundle = &second[&state.path("a/tile/entries/000")];
    let entries = tile::decode_entries(bundle).unwrap();
    let hashes = tile::decode_hashes(&second[&state.path("a/tile/0/000")]).unwrap();
    assert_eq!((entries.len(), hashes.len()), (256, 256));
    assert!(entries.iter().zip(&hashes).all(|(entry, hash)| failsafe_tlog::leaf_hash(entry) == *hash));
    assert_eq!(tile::decode_hashes(&second[&state.path("a/tile/1/000.p/2")]).unwrap()[0], tile::root(&hashes));

    for folder in ["audit", "log.checkpoint", "log.keys", "head.json"] {
        let path = state.path(folder);
        let _gone = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
    assert!(state.ok("log verify --archive a --keys trusted").contains("a: intact"));
    assert!(state.ok("log verify --archive a --keys trusted -o json").contains("\"verdict\": \"ok\""));
    assert!(state.ok("log verify --archive a --keys trusted --checkpoint a/checkpoint").contains("all contained"));
}

#[test]
fn entries_that_left_the_log_stay_in_the_archive_and_a_gap_is_refused() {
    let state = State::new("text", 100);
    state.ok("log archive a");
    let archived = sealed(&state.path("a/audit"));
    state.remove_segments(2);
    state.write("more", 60);
    state.ok("log archive a");
    let now = sealed(&state.path("a/audit"));
    assert!(now.len() > archived.len() && now.starts_with(&archived));
    assert!(state.ok("log verify --archive a").contains("a: intact"));
    // One that begins behind the removal has no tiles.
    let text = state.ok("log archive b");
    assert!(text.contains("tiles    none"), "{text}");
    assert!(!state.path("b/tile").exists() && state.path("b/audit/removed.json").exists());
    assert!(state.ok("log verify --archive b").contains("b: intact"));
    let behind = sealed(&state.path("audit")).len();
    state.write("later", 60);
    state.remove_segments(behind + 2);
    state.write("last", 60);
    let text = state.fails("log archive a");
    assert!(text.contains("are neither in the archive nor in the log"), "{text}");
}

#[test]
fn an_archive_that_differs_is_refused_and_every_changed_file_is_found() {
    let state = State::new("text", 60);
    state.ok("log archive a");
    let good = files(&state);
    for (path, bytes) in &good {
        let mut bad = bytes.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(path, &bad).unwrap();
        let name = path.display();
        let is_keys = path.ends_with("log.keys");
        let found = verdict(&state, "log verify --archive a --keys log.keys");
        assert_eq!(found.0 == Some(0), is_keys, "{name}: {found:?}");
        if !is_keys {
            let refused = state.fails("log archive a");
            assert!(refused.contains("cannot archive the log to a"), "{name}: {refused}");
            assert_eq!(fs::read(path).unwrap(), bad, "{name} was replaced");
        }
        fs::write(path, bytes).unwrap();
        // A file that is missing is found, and written again.
        if !is_keys && !path.ends_with("checkpoint") {
            fs::remove_file(path).unwrap();
            if path.extension().is_none_or(|extension| extension != "tree" && extension != "checkpoint") {
                assert_eq!(verdict(&state, "log verify --archive a --keys log.keys").0, Some(1), "{name} is missing");
            }
            state.ok("log archive a");
            assert_eq!(fs::read(path).unwrap(), *bytes, "{name}");
        }
    }
    // Another log, and an older copy of this one.
    let other = State::new("other", 300);
    let text = other.fails(&format!("log archive {}", state.path("a").display()));
    assert!(text.contains("the archive is of the log"), "{text}");
    let older = State::new("text", 60);
    older.write("more", 60);
    older.ok(&format!("log archive {}", state.path("a").display()));
    let text = state.fails("log archive a");
    assert!(text.contains("the log was shortened"), "{text}");
}

#[test]
fn a_log_that_is_not_the_one_that_was_signed_is_not_archived() {
    let state = State::new("text", 100);
    let last = *sealed(&state.path("audit")).last().unwrap();
    let borders = fs::read_dir(state.path("audit")).unwrap().map(|entry| entry.unwrap().path());
    let border = borders.filter(|path| path.extension().is_some_and(|end| end == "checkpoint")).max().unwrap();
    let name = border.strip_prefix(state.path("")).unwrap().display().to_string();
    let fork = state.fork(&name, 7);
    let good = fs::read(&border).unwrap();
    fs::write(&border, fork).unwrap();
    assert!(state.fails("log archive a").contains("it does not contain the signed checkpoint"));
    fs::write(&border, good).unwrap();
    let segment = state.path(&format!("audit/{last:020}.segment"));
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    assert!(state.fails("log archive a").contains("the log cannot be archived"));
    assert!(!state.path("a").exists(), "nothing was written");
}
