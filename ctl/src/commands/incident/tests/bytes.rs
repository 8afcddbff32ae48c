//! Every byte of a file counts.

use super::*;
use crate::bundle::archive::BLOCK;
use std::os::unix::fs::FileExt;

/// What is wrong with the file, if its form or its digests show that.
fn problem(file: &Path) -> Option<String> {
    Parts::read(fs::File::open(file).unwrap()).err()
}

#[test]
fn every_changed_byte_is_detected() {
    let exported = Node::new(LOSSES, Life::Ended).export();
    let (bytes, file) = (exported.bytes(), exported.file());
    assert_eq!(problem(&file), None);
    let open = fs::OpenOptions::new().write(true).open(&file).unwrap();
    for (at, byte) in bytes.iter().enumerate() {
        // Every bit of the first header, which has all fields; one bit of each other byte.
        let bits = if at < BLOCK { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits {
            open.write_all_at(&[byte ^ (1 << bit)], at as u64).unwrap();
            assert!(problem(&file).is_some(), "byte {at}, bit {bit}");
        }
        open.write_all_at(&[*byte], at as u64).unwrap();
    }
    assert_eq!(exported.bytes(), bytes);
}

#[test]
fn a_file_that_is_cut_off_or_goes_on_is_refused() {
    let exported = Node::new(LOSSES, Life::Ended).export();
    let (bytes, file) = (exported.bytes(), exported.file());
    let mut seen = std::collections::BTreeSet::new();
    for len in (0..bytes.len()).step_by(101).chain((0..bytes.len()).step_by(BLOCK)) {
        fs::write(&file, &bytes[..len]).unwrap();
        let why = problem(&file).unwrap_or_else(|| panic!("cut off at byte {len}"));
        seen.insert(why.contains("cut off") || why.contains("does not end as an archive must"));
    }
    assert!(!seen.contains(&false));
    for more in [1, BLOCK, 2 * BLOCK] {
        fs::write(&file, [bytes.clone(), vec![0; more]].concat()).unwrap();
        assert!(problem(&file).unwrap().contains("bytes behind its end"), "{more}");
    }
}

/// An archive with these members, each as `header` makes it.
fn archive(members: &[(tar::Header, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, data) in members {
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

#[test]
fn archives_that_would_do_harm_if_they_were_unpacked_are_refused_by_their_headers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    let header = |name: &str, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        header
    };
    let with = |change: &dyn Fn(&mut tar::Header)| {
        let mut header = header("checkpoint", 1);
        change(&mut header);
        header.set_cksum();
        header
    };
    let no_header = "this is no header of a part";
    let one: &[u8] = b"x";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a path upwards", archive(&[(header("../checkpoint", 1), one)]), no_header),
        ("an absolute path", archive(&[(header("/etc/passwd", 1), one)]), no_header),
        ("another part", archive(&[(header("more", 1), one)]), no_header),
        ("a link", archive(&[(with(&|h| h.set_entry_type(tar::EntryType::Symlink)), one)]), no_header),
        ("a device", archive(&[(with(&|h| h.set_entry_type(tar::EntryType::Block)), one)]), no_header),
        ("a long name", archive(&[(with(&|h| h.set_entry_type(tar::EntryType::GNULongName)), one)]), no_header),
        ("a time", archive(&[(with(&|h| h.set_mtime(1)), one)]), no_header),
        ("a mode", archive(&[(with(&|h| h.set_mode(0o4755)), one)]), no_header),
        ("twice", archive(&[(header("checkpoint", 1), one), (header("checkpoint", 1), one)]), "it is there twice"),
        ("order", archive(&[(header("policy.json", 1), one), (header("checkpoint", 1), one)]), "added or moved"),
        ("too large", archive(&[(header("checkpoint", 2 << 20), one)]), "the limit is 1048576"),
        ("more than there is", archive(&[(header("checkpoint", 1 << 19), one)]), "it is cut off"),
        ("a number that is none", archive(&[(with(&|h| h.as_old_mut().size = *b"99999999999\0"), one)]), no_header),
        ("no parts", archive(&[]), "SHA256SUMS is not there"),
        ("nothing", Vec::new(), "it is cut off at byte 0"),
        ("text", b"hello".to_vec(), "it is cut off at byte 5"),
    ];
    for (what, bytes, expected) in cases {
        fs::write(&file, bytes).unwrap();
        let why = problem(&file).unwrap_or_else(|| panic!("{what} is accepted"));
        assert!(why.contains(expected), "{what}: {why}");
    }
}
