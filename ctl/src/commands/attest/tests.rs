//! Statements in files: verified, compared, altered, and with keys that are allowed or not.

use super::*;
use crate::{
    args::{Args, AttestCommand, Command},
    client::Target,
};
use clap::Parser;
use ed25519_dalek::{Signer, SigningKey};
use failsafe_attest::{About, Fact, Json, Missing, PublicKey, Scope, seal};
use jiff::tz::TimeZone;
use std::path::PathBuf;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a run's statement, signed by the key of a seed.
    fn statement(&self, name: &str, seed: u8, facts: &[(&str, Result<&str, Missing>)]) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey::from(key.verifying_key());
        let facts = facts.iter().map(|(path, value)| Fact::measured(*path, "a test", value.clone().map(Json::from)));
        let about =
            About { scope: Scope::Run, taken_ns: 1, version: "1", signer: Some(public), nonce: &[0xab], regime: None };
        let statement = Statement::of(facts.collect(), &Table::built_in().unwrap(), &about);
        let sealed = seal(&statement.payload().unwrap(), &public, |message| key.sign(message).to_bytes()).unwrap();
        std::fs::write(self.path(name), sealed).unwrap();
    }

    fn ctl(&self, line: &str) -> Result<Exit, Fail> {
        let words = line.split_whitespace().map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name).display().to_string(),
            None => word.to_owned(),
        });
        let args =
            Args::try_parse_from(["failsafectl".to_owned(), "attest".to_owned()].into_iter().chain(words)).unwrap();
        let nowhere = self.path("no-socket");
        let daemon = &Target::Socket(nowhere.clone());
        let place = &Place { daemon, state_dir: &nowhere, zone: TimeZone::UTC };
        match args.command {
            Command::Attest { what: AttestCommand::Verify(args) } => verify(place, &args),
            Command::Attest { what: AttestCommand::Diff(args) } => diff(place, &args),
            _ => panic!("{line}"),
        }
    }
}

#[test]
fn a_statement_is_verified_offline_and_the_exit_code_shows_whether_its_key_was_checked() {
    let files = Files::new();
    files.statement("a.json", 1, &[("run/command", Ok("x"))]);
    let line = |seed: u8| {
        let key = PublicKey::from(SigningKey::from_bytes(&[seed; 32]).verifying_key());
        format!("{} {} node\n", key.id(), key.base64())
    };
    std::fs::write(files.path("good"), line(1)).unwrap();
    std::fs::write(files.path("other"), line(2)).unwrap();
    std::fs::write(files.path("broken"), "x\n").unwrap();
    assert_eq!(files.ctl("verify @a.json"), Ok(Exit::KeyNotChecked));
    assert_eq!(files.ctl("verify @a.json --keys @good"), Ok(Exit::Done));
    assert_eq!(files.ctl("verify @a.json --keys @good --nonce ab -o json"), Ok(Exit::Done));
    let fails = |line: &str| files.ctl(line).unwrap_err();
    assert_eq!(fails("verify @a.json --keys @other").exit, Exit::Tampered);
    assert_eq!(fails("verify @a.json --keys @good --nonce ac").exit, Exit::Tampered);
    assert_eq!(fails("verify @a.json --keys @broken").exit, Exit::Usage);
    assert_eq!(fails("verify @none").exit, Exit::Error);
    let mut bytes = std::fs::read(files.path("a.json")).unwrap();
    bytes[60] ^= 1;
    std::fs::write(files.path("altered.json"), bytes).unwrap();
    for line in ["verify @altered.json", "diff @a.json @altered.json"] {
        let fail = fails(line);
        assert!(fail.exit == Exit::Tampered && fail.message.contains("altered.json: not valid"), "{fail}");
    }
}

#[test]
fn each_verdict_has_its_exit_code() {
    let files = Files::new();
    let unknown = || Err(Missing::unavailable("x"));
    files.statement("a", 1, &[("run/command", Ok("x")), ("node/memory", Ok("1 GiB")), ("node/hostname", Ok("n1"))]);
    files.statement("same", 2, &[("run/command", Ok("x")), ("node/memory", Ok("1 GiB")), ("node/hostname", Ok("n2"))]);
    files.statement("slow", 1, &[("run/command", Ok("x")), ("node/memory", Ok("2 GiB")), ("node/hostname", Ok("n1"))]);
    files.statement("other", 1, &[("run/command", Ok("y")), ("node/memory", Ok("2 GiB")), ("node/hostname", Ok("n1"))]);
    files.statement(
        "blind",
        1,
        &[("run/command", unknown()), ("node/memory", Ok("2 GiB")), ("node/hostname", Ok("n1"))],
    );
    let line = |seed: u8| {
        let key = PublicKey::from(SigningKey::from_bytes(&[seed; 32]).verifying_key());
        format!("{} {} node\n", key.id(), key.base64())
    };
    std::fs::write(files.path("keys"), line(1) + &line(2)).unwrap();
    std::fs::write(files.path("one-key"), line(1)).unwrap();
    for (line, expected) in [
        ("diff @a @same --keys @keys", Exit::Done),
        ("diff @a @same", Exit::KeyNotChecked),
        ("diff @a @same @slow", Exit::PerformanceDiffers),
        ("diff @a @other", Exit::ResultDiffers),
        ("diff @a @other @blind", Exit::ResultDiffers),
        ("diff @a @blind -o json", Exit::CannotKnow),
        ("diff @a @slow --ignore run/** --keys @keys", Exit::CannotKnow),
    ] {
        assert_eq!(files.ctl(line), Ok(expected), "{line}");
    }
    assert_eq!(files.ctl("diff @a @same --keys @one-key").unwrap_err().exit, Exit::Tampered);
}

#[test]
fn the_page_names_the_worst_difference_first_and_hides_identity() {
    let files = Files::new();
    let facts = |threads, memory, host| {
        [
            ("run/env/OMP_NUM_THREADS", Ok(threads)),
            ("run/name", Ok("trainer")),
            ("node/memory", Ok(memory)),
            ("node/hostname", Ok(host)),
        ]
    };
    files.statement("a.json", 1, &facts("1", "1 GiB", "n\u{1b}[2J1"));
    files.statement("b.json", 1, &facts("2", "2 GiB", "n2"));
    let (a, b) = (opened(&files.path("a.json"), None).unwrap(), opened(&files.path("b.json"), None).unwrap());
    let comparison = compare(&[&a.statement, &b.statement], &table().unwrap(), &Options::default());
    let sides = [
        page::Side { file: Path::new("a.json"), verified: &a },
        page::Side { file: Path::new("b.json"), verified: &b },
    ];
    let text =
        |identity| page::comparison(&sides, &comparison, (false, false, identity), &TimeZone::UTC, Paint::plain());
    insta::assert_snapshot!(text(false));
    assert!(!text(true).contains('\u{1b}') && text(true).contains("node/hostname  [identity]"));
    let verified = page::verified(Path::new("a.json"), &a, None, &TimeZone::UTC, Paint::plain());
    for expected in
        ["key not checked against an allowed list", "(software key)", "every factor is known", "not covered"]
    {
        assert!(verified.contains(expected), "{expected}: {verified}");
    }
    assert!(!verified.contains('\u{1b}'));
    let json = page::comparison_json(&sides, &comparison, false).unwrap();
    assert_eq!(json["verdict"], "result-differs");
    assert_eq!(json["differences"][0]["path"], "run/env/OMP_NUM_THREADS");
    assert_eq!(json["differences"].as_array().unwrap().len(), 2);
}
