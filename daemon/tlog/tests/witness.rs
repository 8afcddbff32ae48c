//! Cosignatures, policies and witnesses: keys and messages as other implementations have them, each byte changed, and each reason to
//! refuse.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_tlog::note::{BadKey, NotVerified};
use failsafe_tlog::policy::{BadLine, BadPolicy, Rejected};
use failsafe_tlog::witness::{Cosigned, Refusal, judge};
use failsafe_tlog::{
    Checkpoint, Collector, ConsistencyFile, Cosigner, Frontier, Keys, Note, Policy, Signer, VerifierKey, WitnessKey,
    leaf_hash,
};

const ORIGIN: &str = "failsafe/log/0011223344556677";
/// A key of a witness in the wild, as the tests of other implementations have it.
const REMORA: &str = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";

struct Key<K>(SigningKey, K);

fn log(seed: u8) -> Key<VerifierKey> {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = VerifierKey::new("failsafe", &key.verifying_key().to_bytes()).unwrap();
    Key(key, public)
}

fn witness(name: &str, seed: u8) -> Key<WitnessKey> {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = WitnessKey::new(name, &key.verifying_key().to_bytes()).unwrap();
    Key(key, public)
}

impl Signer for Key<VerifierKey> {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl Cosigner for Key<WitnessKey> {
    fn key(&self) -> &WitnessKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn leaf(n: u64, fork: bool) -> [u8; 32] {
    leaf_hash(format!("entry {n}{}", if fork { " of a fork" } else { "" }).as_bytes())
}

/// A tree of `size` entries; those from the fourth on are of a fork.
fn tree(size: u64, fork: bool) -> Checkpoint {
    let mut frontier = Frontier::new();
    (0..size).for_each(|n| frontier.push(leaf(n, fork && n >= 3)));
    Checkpoint { origin: ORIGIN.to_owned(), size, root: frontier.root(), extensions: Vec::new() }
}

fn request(old: u64, new: u64, fork: bool) -> ConsistencyFile {
    let hashes = if old == 0 || old >= new {
        Vec::new()
    } else {
        let mut collector = Collector::consistency(&Frontier::new(), old, new).unwrap();
        (0..new).for_each(|n| collector.push(leaf(n, fork && n >= 3)));
        collector.finish().unwrap().0.remove(0)
    };
    ConsistencyFile { old, hashes, checkpoint: tree(new, fork).sign(&log(1)).encode() }
}

fn known() -> Keys {
    Keys::of(vec![log(1).1])
}

fn cosigned(last: Option<&Checkpoint>, request: &ConsistencyFile) -> Result<Cosigned, Refusal> {
    judge(request, last, &known(), 1_679_315_147, &witness("witness.example/w1", 7))
}

#[test]
fn a_key_of_a_witness_has_the_type_of_cosignatures() {
    assert_eq!(WitnessKey::parse(REMORA).unwrap().to_string(), REMORA);
    assert_eq!(VerifierKey::parse(REMORA).unwrap_err(), BadKey::Type { found: 4, expected: 1 });
    let of_log = log(1).1.to_string();
    assert_eq!(WitnessKey::parse(&of_log).unwrap_err(), BadKey::Type { found: 1, expected: 4 });
    assert_ne!(log(1).1.to_string(), witness("failsafe", 1).1.to_string(), "the id covers the type");
}

#[test]
fn a_cosignature_is_over_the_time_and_the_checkpoint() {
    let Cosigned { note, line, checkpoint } = cosigned(None, &request(0, 5, false)).unwrap();
    assert_eq!(checkpoint, tree(5, false));
    let parsed = Note::parse(&note).unwrap();
    let key = witness("witness.example/w1", 7);
    assert_eq!(key.1.cosigned(&parsed), Ok(Some(1_679_315_147)));
    assert_eq!(witness("witness.example/w1", 8).1.cosigned(&parsed), Ok(None));
    // The bytes that the specification names, signed here anew.
    let message = format!("cosignature/v1\ntime 1679315147\n{}", parsed.text());
    let signature = &parsed.signatures()[1];
    let bytes = [&1_679_315_147_u64.to_be_bytes()[..], &key.0.sign(message.as_bytes()).to_bytes()].concat();
    use base64::{Engine, engine::general_purpose::STANDARD};
    let expected = format!("\u{2014} witness.example/w1 {}\n", STANDARD.encode([&signature.id[..], &bytes].concat()));
    assert_eq!(line, expected);
    assert!(String::from_utf8(note).unwrap().ends_with(&expected));
}

#[test]
fn every_changed_byte_of_a_cosigned_checkpoint_is_detected() {
    let good = cosigned(None, &request(0, 5, false)).unwrap().note;
    let policy = format!("log {}\nwitness w {}\nquorum w\n", log(1).1, witness("witness.example/w1", 7).1);
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    assert_eq!(policy.accept(&good).unwrap().cosigned, [("w".to_owned(), 1_679_315_147)]);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(policy.accept(&bad).is_err(), "bit {bit} of byte {at}");
        }
        assert!(policy.accept(&good[..at]).is_err(), "cut off at byte {at}");
    }
}

#[test]
fn a_witness_follows_a_log_that_grows() {
    let mut last = None;
    for (old, new) in [(0, 1), (1, 1), (1, 5), (5, 8), (8, 8), (8, 13)] {
        let Cosigned { checkpoint, .. } = cosigned(last.as_ref(), &request(old, new, false)).unwrap();
        assert_eq!(checkpoint, tree(new, false));
        last = Some(checkpoint);
    }
}

#[test]
fn a_witness_refuses_what_does_not_extend_the_last_tree() {
    let last = tree(5, false);
    let refused = |request: &ConsistencyFile| cosigned(Some(&last), request).unwrap_err();
    assert_eq!(refused(&request(0, 8, false)), Refusal::Conflict { old: 0, cosigned: 5 });
    assert_eq!(refused(&request(4, 8, false)), Refusal::Conflict { old: 4, cosigned: 5 });
    assert_eq!(refused(&request(4, 4, false)), Refusal::Conflict { old: 4, cosigned: 5 }, "a smaller tree");
    assert_eq!(refused(&request(5, 4, false)), Refusal::Backwards { old: 5, new: 4 });
    let fork = refused(&request(5, 8, true));
    assert!(matches!(fork, Refusal::Inconsistent(_)), "{fork}");
    let fork = refused(&request(5, 5, true));
    assert!(matches!(fork, Refusal::Inconsistent(_)), "{fork}");
    let other = refused(&ConsistencyFile { hashes: vec![[0; 32]], ..request(5, 8, false) });
    assert!(matches!(other, Refusal::Inconsistent(_)), "{other}");
    let elsewhere = Checkpoint { origin: "other".into(), ..last.clone() };
    let wrong = cosigned(Some(&elsewhere), &request(5, 8, false)).unwrap_err();
    assert_eq!(wrong, Refusal::OtherLog("other".into()));
}

#[test]
fn a_witness_refuses_unknown_logs_signatures_and_trees() {
    let signed_by =
        |seed| ConsistencyFile { checkpoint: tree(5, false).sign(&log(seed)).encode(), ..request(0, 5, false) };
    let refused = cosigned(None, &signed_by(2)).unwrap_err();
    assert!(matches!(refused, Refusal::NotSigned(NotVerified::Unknown(_))), "{refused}");
    let mut forged = String::from_utf8(request(0, 5, false).checkpoint).unwrap();
    forged = forged.replacen("\n5\n", "\n6\n", 1);
    let refused =
        cosigned(None, &ConsistencyFile { checkpoint: forged.into_bytes(), ..request(0, 5, false) }).unwrap_err();
    assert!(matches!(refused, Refusal::NotSigned(NotVerified::Invalid(_))), "{refused}");
    let other = Checkpoint { origin: "failsafer/log/1".into(), ..tree(5, false) };
    let other = ConsistencyFile { checkpoint: other.sign(&log(1)).encode(), ..request(0, 5, false) };
    assert_eq!(cosigned(None, &other).unwrap_err(), Refusal::UnknownLog("failsafer/log/1".into()));
    let empty = Checkpoint { root: [1; 32], ..tree(0, false) };
    let empty = ConsistencyFile { checkpoint: empty.sign(&log(1)).encode(), ..request(0, 0, false) };
    assert_eq!(cosigned(None, &empty).unwrap_err(), Refusal::EmptyRoot);
    assert!(cosigned(None, &request(0, 0, false)).is_ok());
    let proved = ConsistencyFile { hashes: vec![[0; 32]], ..request(0, 5, false) };
    assert_eq!(cosigned(None, &proved).unwrap_err().status(), 422, "a proof from nothing");
    let malformed = ConsistencyFile { checkpoint: b"x".to_vec(), ..request(0, 5, false) };
    assert_eq!(cosigned(None, &malformed).unwrap_err().status(), 400);
}

#[test]
fn a_cosigned_note_has_no_signature_that_the_witness_did_not_verify() {
    let mut request = request(0, 5, false);
    let line = tree(5, false).sign(&log(9)).encode();
    let line = String::from_utf8(line).unwrap().split_once("\n\n").unwrap().1.to_owned();
    request.checkpoint.extend(line.as_bytes());
    let note = Note::parse(&cosigned(None, &request).unwrap().note).unwrap();
    let names: Vec<&str> = note.signatures().iter().map(|signature| signature.name.as_str()).collect();
    assert_eq!(names, ["failsafe", "witness.example/w1"]);
}

fn names() -> [(&'static str, u8); 6] {
    [("X1", 11), ("X2", 12), ("X3", 13), ("Y1", 21), ("Y2", 22), ("Y3", 23)]
}

/// The example of the specification, with keys.
fn two_operators() -> Policy {
    let witnesses: String = names().map(|(name, seed)| format!("witness {name} {}\n", witness(name, seed).1)).concat();
    let text = format!(
        "log {}\n\n{witnesses}group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\n\
         group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n",
        log(1).1
    );
    Policy::parse(text.as_bytes()).unwrap()
}

/// A checkpoint with the cosignatures of these.
fn by(cosigners: &[&str]) -> Vec<u8> {
    let mut note = request(0, 5, false).checkpoint;
    for (name, seed) in names().into_iter().filter(|(name, _)| cosigners.contains(name)) {
        let one = judge(&request(0, 5, false), None, &known(), 9, &witness(name, seed)).unwrap();
        note.extend(one.line.as_bytes());
    }
    note
}

#[test]
fn a_quorum_counts_groups_of_groups() {
    let policy = two_operators();
    for accepted in [&["X1", "X3", "Y2"][..], &["X1", "X2", "X3", "Y1", "Y2", "Y3"]] {
        let names: Vec<String> = policy.accept(&by(accepted)).unwrap().cosigned.into_iter().map(|one| one.0).collect();
        assert_eq!(names, accepted);
    }
    for rejected in [&[][..], &["X1", "Y1"], &["X1", "X2", "X3"], &["Y1", "Y2", "Y3"]] {
        let error = policy.accept(&by(rejected)).unwrap_err();
        assert!(matches!(error, Rejected::Quorum { .. }), "{error}");
    }
    let error = policy.accept(&by(&["X1", "Y1"])).unwrap_err().to_string();
    assert!(error.ends_with("`X-and-Y` needs 2 of X-witnesses, Y-witnesses; valid cosignatures: X1, Y1"), "{error}");
}

#[test]
fn a_policy_accepts_only_its_logs() {
    let policy = |text: String| Policy::parse(text.as_bytes()).unwrap();
    let none = policy("quorum none".to_owned());
    assert!(matches!(none.accept(&by(&[])), Err(Rejected::Checkpoint(_))));
    let ours = policy(format!("log {} https://node7.example\nquorum none\n", log(1).1));
    assert!(ours.accept(&by(&[])).is_ok());
    let other = Checkpoint { origin: "other".into(), ..tree(5, false) }.sign(&log(1)).encode();
    assert!(matches!(ours.accept(&other), Err(Rejected::OtherLog { .. })));
}

#[test]
fn names_are_bytes_and_keywords_are_names() {
    let (one, two) = (witness("a", 1).1, witness("b", 2).1);
    let text = [b"witness K\x80 ".as_slice(), one.to_string().as_bytes(), b" \n\tquorum \t K\x80"].concat();
    assert!(Policy::parse(&text).is_ok());
    let keywords =
        format!("# c\n\t# c\nwitness all {one}\nwitness any {two} url\ngroup group 2 all any\nquorum group\n");
    assert!(Policy::parse(keywords.as_bytes()).is_ok());
}

#[test]
fn a_malformed_policy_is_refused_with_its_line() {
    let (one, two, of_log) = (witness("a", 1).1, witness("b", 2).1, log(3).1);
    let begin = format!("witness w1 {one}\nwitness w2 {two}\n");
    let cases = [
        ("quorum none\r\n".to_owned(), 1, BadLine::Control(b'\r')),
        ("quibble w1\n".to_owned(), 1, BadLine::Keyword("quibble".into())),
        (format!("witness w1 {one} url # comment\n"), 1, BadLine::Form("witness NAME VKEY [URL]")),
        ("log\n".to_owned(), 1, BadLine::Form("log VKEY [URL]")),
        ("log garbage\n".to_owned(), 1, BadLine::Key(BadKey::Form)),
        (format!("log {one}\n"), 1, BadLine::Key(BadKey::Type { found: 4, expected: 1 })),
        (format!("witness w1 {of_log}\n"), 1, BadLine::Key(BadKey::Type { found: 1, expected: 4 })),
        (format!("log {of_log}\nlog {of_log}\n"), 2, BadLine::Duplicate),
        (format!("witness w1 {one}\nwitness w2 {}\n", witness("other", 1).1), 2, BadLine::Duplicate),
        (format!("witness none {one}\n"), 1, BadLine::Defined("none".into())),
        (format!("witness w1 {one}\nwitness w1 {two}\n"), 2, BadLine::Defined("w1".into())),
        (format!("{begin}group w1 any w2\n"), 3, BadLine::Defined("w1".into())),
        (format!("{begin}group g any\n"), 3, BadLine::Form("group NAME all|any|K MEMBER...")),
        (format!("{begin}group g 0 w1\n"), 3, BadLine::Threshold { members: 1 }),
        (format!("{begin}group g -1 w1\n"), 3, BadLine::Threshold { members: 1 }),
        (format!("{begin}group g 3 w1 w2\n"), 3, BadLine::Threshold { members: 2 }),
        (format!("{begin}group g any none\n"), 3, BadLine::Undefined("none".into())),
        (format!("group g any w1\n{begin}"), 1, BadLine::Undefined("w1".into())),
        (format!("{begin}group g all w1 w1\n"), 3, BadLine::Member("w1".into())),
        (format!("{begin}group g any w1\ngroup h any w1 w2\n"), 4, BadLine::Member("w1".into())),
        (format!("{begin}group g any w1\ngroup h any g g\n"), 4, BadLine::Member("g".into())),
        ("quorum\n".to_owned(), 1, BadLine::Form("quorum NAME|none")),
        ("quorum w1\n".to_owned(), 1, BadLine::Undefined("w1".into())),
        (format!("{begin}quorum w1\nquorum w2\n"), 4, BadLine::Quorum),
    ];
    for (text, line, why) in cases {
        assert_eq!(Policy::parse(text.as_bytes()), Err(BadPolicy::Line { line, why }), "{text}");
    }
    assert_eq!(Policy::parse(begin.as_bytes()), Err(BadPolicy::NoQuorum));
    assert_eq!(Policy::parse(&vec![b'#'; 2 << 20]), Err(BadPolicy::TooLong(2 << 20)));
    let many: String = (0..2_000)
        .map(|n| format!("group g{n} any {}\n", if n == 0 { "w1".into() } else { format!("g{}", n - 1) }))
        .collect();
    assert_eq!(Policy::parse(format!("{begin}{many}").as_bytes()), Err(BadPolicy::TooMany));
}
