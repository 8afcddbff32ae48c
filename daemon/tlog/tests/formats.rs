//! Notes, checkpoints, proof files and tiles: the examples of the C2SP specifications, each byte changed, and each way in which
//! a file can be malformed.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_tlog::checkpoint::BadCheckpoint;
use failsafe_tlog::note::{BadKey, BadNote, NotVerified};
use failsafe_tlog::proof_file::BadProof;
use failsafe_tlog::tile::{self, BadTile, Kind, Tile};
use failsafe_tlog::{
    Checkpoint, Collector, ConsistencyFile, Frontier, Keys, Note, ProofFile, Signer, VerifierKey, leaf_hash,
};

struct TestSigner(SigningKey, VerifierKey);

fn signer(seed: u8) -> TestSigner {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = VerifierKey::new("failsafe.test/node", &key.verifying_key().to_bytes()).unwrap();
    TestSigner(key, public)
}

impl Signer for TestSigner {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn keys() -> Keys {
    Keys::of(vec![signer(1).1])
}

/// The example of c2sp.org/signed-note.
const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const NOTE: &str = "This is an example message.\n\n\
    \u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
/// The example of c2sp.org/tlog-checkpoint, of which the key is not published.
const CHECKPOINT: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
    \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";

#[test]
fn the_example_note_is_verified_by_the_example_key() {
    let keys = Keys::parse(&format!("# a comment\n\n{KEY}\n")).unwrap();
    let note = Note::parse(NOTE.as_bytes()).unwrap();
    assert_eq!(note.text(), "This is an example message.\n");
    assert_eq!(note.verify(&keys).unwrap().to_string(), KEY);
    assert_eq!(note.encode(), NOTE.as_bytes());
}

#[test]
fn the_example_checkpoint_is_read() {
    let checkpoint = Checkpoint::unverified(CHECKPOINT.as_bytes()).unwrap();
    assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
    assert!(CHECKPOINT.starts_with(&format!("{}\n", checkpoint.text())));
    let error = Checkpoint::open(CHECKPOINT.as_bytes(), &keys()).unwrap_err();
    assert!(matches!(error, BadCheckpoint::NotVerified(NotVerified::Unknown(_))), "{error}");
}

#[test]
fn every_changed_byte_of_a_checkpoint_is_detected() {
    let checkpoint =
        Checkpoint { origin: "failsafe.test/node/log/1".into(), size: 3, root: [7; 32], extensions: Vec::new() };
    let good = checkpoint.sign(&signer(1)).encode();
    assert_eq!(Checkpoint::open(&good, &keys()).unwrap().0, checkpoint);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(Checkpoint::open(&bad, &keys()).is_err(), "bit {bit} of byte {at}");
        }
        assert!(Checkpoint::open(&good[..at], &keys()).is_err(), "cut off at byte {at}");
    }
}

fn proof() -> Vec<u8> {
    let entries: Vec<String> = (0..11).map(|n| format!("entry {n}")).collect();
    let mut collector = Collector::inclusion(&Frontier::new(), &[6], 11).unwrap();
    entries.iter().for_each(|entry| collector.push(leaf_hash(entry.as_bytes())));
    let (mut proofs, root) = collector.finish().unwrap();
    let hashes = proofs.remove(0);
    let checkpoint = Checkpoint { origin: "failsafe.test/node/log/1".into(), size: 11, root, extensions: Vec::new() };
    let checkpoint = checkpoint.sign(&signer(1)).encode();
    ProofFile { extra: Some(entries[6].clone().into_bytes()), index: 6, hashes, checkpoint }.encode()
}

#[test]
fn every_changed_byte_of_a_proof_is_detected() {
    let good = proof();
    let keys = keys();
    let check = |bytes: &[u8]| ProofFile::parse(bytes).and_then(|proof| proof.verify(&keys).map(|proved| proved.entry));
    assert_eq!(check(&good).unwrap(), b"entry 6");
    assert_eq!(ProofFile::parse(&good).unwrap().encode(), good);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(check(&bad).is_err(), "bit {bit} of byte {at}");
        }
        assert!(check(&good[..at]).is_err(), "cut off at byte {at}");
    }
}

#[test]
fn malformed_notes_have_a_message_each() {
    let parse = |text: &str| Note::parse(text.as_bytes()).unwrap_err();
    assert_eq!(parse(NOTE.trim_end()), BadNote::CutOff);
    assert_eq!(parse("text\n"), BadNote::Unsigned);
    assert_eq!(parse("text\n\n\n"), BadNote::Unsigned);
    assert_eq!(parse("te\rxt\n\n"), BadNote::Control(2));
    assert_eq!(parse(&NOTE.replace('\u{2014}', "-")), BadNote::Line(1));
    assert_eq!(parse(&NOTE.replace("example.com/foo", "example.com/f+o")), BadNote::Line(1));
    assert_eq!(parse(&NOTE.replace("aQM=", "aQN=")), BadNote::Line(1), "bits behind the last byte");
    assert_eq!(Note::parse(b"text\xff\n\n").unwrap_err(), BadNote::Utf8(4));
    let line = NOTE.split_once("\n\n").unwrap().1;
    assert_eq!(parse(&format!("text\n\n{}", line.repeat(101))), BadNote::TooMany(101));
    assert!(Note::parse(format!("text\n\n{}", line.repeat(16)).as_bytes()).is_ok());
    assert_eq!(parse(&"x".repeat(2 << 20)), BadNote::TooLong(2 << 20));
}

#[test]
fn a_note_needs_a_valid_signature_by_a_known_key() {
    let text = || "text\n".to_owned();
    let note = Note::sign(text(), &signer(1));
    let other = Note::sign(text(), &signer(2));
    assert!(matches!(other.verify(&keys()), Err(NotVerified::Unknown(by)) if by.contains("failsafe.test/node")));
    assert!(matches!(note.verify(&Keys::default()), Err(NotVerified::Unknown(_))));
    // A key that is known without a name is the same key under each name, and no other key.
    let any = Keys::default().with_any_name([signer(1).key().public()]);
    assert_eq!(note.verify(&any).unwrap().name(), "failsafe.test/node");
    assert!(matches!(other.verify(&any), Err(NotVerified::Unknown(_))));
    assert_eq!(any.iter().count(), 0, "a witness, which decides by names, does not use it");
    // With the signature of an unknown key beside it, it is still by the known one.
    let both = |note: &Note, other: &Note| {
        let line = String::from_utf8(other.encode()).unwrap().split_once("\n\n").unwrap().1.to_owned();
        Note::parse(&[note.encode(), line.into_bytes()].concat()).unwrap()
    };
    assert!(both(&note, &other).verify(&keys()).is_ok());
    // But not with an invalid signature in the name of the known one.
    let forged = Note::sign("other\n".to_owned(), &signer(1));
    assert!(matches!(both(&note, &forged).verify(&keys()), Err(NotVerified::Invalid(_))));
}

#[test]
fn malformed_keys_have_a_message_each() {
    let parse = |text: &str| VerifierKey::parse(text).unwrap_err();
    assert_eq!(parse("example.com"), BadKey::Form);
    assert_eq!(parse(&KEY.replace("example.com", "example com")), BadKey::Name);
    assert_eq!(parse(&KEY.replace("530d903a", "530D903A")), BadKey::Id);
    assert_eq!(parse(&KEY.replace("+AekyeRr", "+BekyeRr")), BadKey::Type { found: 5, expected: 1 });
    assert_eq!(parse(&KEY.replace("3U2k", "3U2")), BadKey::Material);
    assert!(matches!(parse(&KEY.replace("example.com/foo", "example.com/bar")), BadKey::Mismatch { .. }));
    assert_eq!(VerifierKey::new("name", &[0; 32]).unwrap_err(), BadKey::Weak);
    assert!(matches!(Keys::parse("# one\nexample\n").unwrap_err(), BadKey::Line { line: 2, .. }));
}

#[test]
fn malformed_checkpoints_have_a_message_each() {
    let parse = |text: &str| Checkpoint::parse(text).unwrap_err();
    let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
    assert_eq!(parse("\n1\n"), BadCheckpoint::Origin);
    for size in ["", "01", "+1", "-1", " 1", "1.0", "99999999999999999999"] {
        assert_eq!(parse(&format!("log\n{size}\n{root}\n")), BadCheckpoint::Size, "{size}");
    }
    for bad in ["", "AA==", &root[1..], "!"] {
        assert_eq!(parse(&format!("log\n1\n{bad}\n")), BadCheckpoint::Root, "{bad}");
    }
    assert_eq!(parse(&format!("log\n1\n{root}\nx\n\ny\n")), BadCheckpoint::Empty(5));
    assert_eq!(Checkpoint::parse(&format!("log\n0\n{root}\nx\n")).unwrap().extensions, ["x"]);
}

#[test]
fn malformed_proofs_have_a_message_each() {
    let good = String::from_utf8(proof()).unwrap();
    let parse = |text: &str| ProofFile::parse(text.as_bytes()).unwrap_err();
    assert_eq!(parse(&good.replace("@v1", "@v2")), BadProof::Header);
    assert_eq!(parse(&good.replace("extra ", "extra !")), BadProof::Extra);
    assert_eq!(parse(&good.replace("index 6", "index 06")), BadProof::Index);
    assert_eq!(parse(&good.replace("index 6\n", "index 6\nAA==\n")), BadProof::Hash(1));
    assert_eq!(parse(good.split_once("\n\n").unwrap().0), BadProof::NoCheckpoint);
    assert_eq!(ProofFile::parse(b"\xff").unwrap_err(), BadProof::Utf8(0));
    let verify = |text: &str| ProofFile::parse(text.as_bytes()).unwrap().verify(&keys()).unwrap_err();
    let extra = good.lines().nth(1).unwrap();
    assert_eq!(verify(&good.replace(&format!("{extra}\n"), "")), BadProof::NoEntry);
    assert!(matches!(verify(&good.replace("index 6", "index 5")), BadProof::Wrong(_)));
    assert!(matches!(verify(&good.replace("\n11\n", "\n12\n")), BadProof::Checkpoint(BadCheckpoint::NotVerified(_))));
}

/// The example of c2sp.org/tlog-tiles.
#[test]
fn a_tree_of_70000_entries_has_the_tiles_of_the_specification() {
    let tiles: Vec<Tile> = Tile::of(70_000).collect();
    let level = |wanted: Kind| tiles.iter().filter(move |tile| tile.kind == wanted).collect::<Vec<_>>();
    let widths = |kind| level(kind).iter().map(|tile| tile.width).collect::<Vec<_>>();
    assert_eq!(widths(Kind::Hashes(0)), [[256].repeat(273), vec![112]].concat());
    assert_eq!(widths(Kind::Hashes(1)), [256, 17]);
    assert_eq!(widths(Kind::Hashes(2)), [1]);
    assert_eq!(widths(Kind::Entries), [[256].repeat(273), vec![112]].concat());
    assert_eq!(tiles.len(), 274 * 2 + 2 + 1);
    assert_eq!(level(Kind::Hashes(1))[1].path(), "tile/1/001.p/17");
    let small: Vec<String> = Tile::of(256).map(|tile| tile.path()).collect();
    assert_eq!(small, ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]);
    let far = Tile { kind: Kind::Hashes(0), number: 1_234_067, width: 256 };
    assert_eq!(far.path(), "tile/0/x001/x234/067");
    for tile in tiles.into_iter().chain([far]) {
        assert_eq!(Tile::parse(&tile.path()), Ok(tile));
    }
}

#[test]
fn malformed_tiles_are_refused() {
    let bad = ["", "tile/0", "tile/0/1", "tile/00/001", "tile/64/001", "tile/0/001.p/0", "tile/0/001.p/256"];
    for path in bad.iter().chain(&["tile/0/x001", "tile/0/x000/001", "tile/+1/001", "tile/0/001/002", "tile/x/001"]) {
        assert_eq!(Tile::parse(path), Err(BadTile::Path((*path).to_owned())));
    }
    assert_eq!(tile::decode_hashes(&[0; 33]), Err(BadTile::Size(33)));
    assert_eq!(tile::decode_hashes(&[0; 257 * 32]), Err(BadTile::Size(257 * 32)));
    let bundle = tile::encode_entries([&b"one"[..], b"", b"three"]).unwrap();
    assert_eq!(bundle, b"\0\x03one\0\0\0\x05three");
    assert_eq!(tile::decode_entries(&bundle).unwrap(), [&b"one"[..], b"", b"three"]);
    assert_eq!(tile::decode_entries(&bundle[..6]), Err(BadTile::CutOff(5)));
    let long = vec![0; 65_536];
    assert_eq!(tile::encode_entries([&long[..]]), Err(BadTile::TooLong { index: 0, bytes: 65_536 }));
}

fn consistency() -> (Checkpoint, ConsistencyFile) {
    let tree = |size: u64| {
        let mut frontier = Frontier::new();
        (0..size).for_each(|n| frontier.push(leaf_hash(format!("entry {n}").as_bytes())));
        let origin = "failsafe.test/node/log/1".to_owned();
        Checkpoint { origin, size, root: frontier.root(), extensions: Vec::new() }
    };
    let mut collector = Collector::consistency(&Frontier::new(), 6, 11).unwrap();
    (0..11).for_each(|n| collector.push(leaf_hash(format!("entry {n}").as_bytes())));
    let hashes = collector.finish().unwrap().0.remove(0);
    (tree(6), ConsistencyFile { old: 6, hashes, checkpoint: tree(11).sign(&signer(1)).encode() })
}

#[test]
fn every_changed_byte_of_a_consistency_proof_is_detected() {
    let (old, good) = consistency();
    let proves = |bytes: &[u8]| {
        let keys = keys();
        let file = ConsistencyFile::parse(bytes)?;
        let new = file.open(&keys)?.0;
        file.verify(&old, &new)
    };
    let bytes = good.encode();
    assert_eq!(ConsistencyFile::parse(&bytes).unwrap(), good);
    proves(&bytes).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(proves(&bad).is_err(), "bit {bit} of byte {at}");
        }
        assert!(proves(&bytes[..at]).is_err(), "cut off at byte {at}");
    }
}

#[test]
fn each_way_in_which_a_consistency_proof_is_wrong_has_its_message() {
    let (old, good) = consistency();
    let text = |bytes: &[u8]| ConsistencyFile::parse(bytes).unwrap_err().to_string();
    assert!(text(b"old 1\n").contains("has no checkpoint"));
    assert!(text(b"new 1\n\nx").contains("must be `old N`"));
    assert!(text(b"old 01\n\nx").contains("must be `old N`"));
    assert!(text(b"old 1\nAAAA\n\nx").contains("hash 1 of the proof"));
    let many = ConsistencyFile { hashes: vec![[0; 32]; 64], ..good.clone() }.encode();
    assert!(text(&many).contains("64 hashes; the limit is 63"));
    assert!(text(&vec![b'a'; failsafe_tlog::consistency_file::MAX_BYTES + 1]).contains("the limit is"));
    let new = good.open(&keys()).unwrap().0;
    let wrong = |old: &Checkpoint| good.verify(old, &new).unwrap_err().to_string();
    assert!(wrong(&Checkpoint { size: 5, ..old.clone() }).contains("for an earlier tree of 6 entries, not of 5"));
    assert!(wrong(&Checkpoint { size: 12, ..old.clone() }).contains("fewer than the 12"));
    assert!(wrong(&Checkpoint { root: [1; 32], ..old.clone() }).contains("does not contain the earlier one"));
    assert!(wrong(&Checkpoint { origin: "other".into(), ..old.clone() }).contains("is of other"));
}
