//! Programs of others read what this crate writes: `jsonschema` the form of statements, `securesystemslib` the envelopes.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use ed25519_dalek::{Signer, SigningKey};
use failsafe_attest::{About, Fact, Json, Missing, Moment, PublicKey, Scope, Statement, Table, seal};
use failsafe_core::{
    egress::{Account, Attempts, BudgetUse, Connections, Destination, Line},
    record::{At, Totals},
};
use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

#[path = "../../../tests/skip.rs"]
#[expect(clippy::disallowed_methods, reason = "what is skipped is written to a file that the environment names")]
mod skip;

const SCHEMA: &str = include_str!("../../../docs/schemas/fingerprint-v1.schema.json");

fn key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

fn public() -> PublicKey {
    PublicKey::from(key().verifying_key())
}

/// A statement with every kind of value and status.
fn statement(scope: Scope, nonce: &[u8], signer: Option<PublicKey>) -> Statement {
    let missing = [Missing::unavailable("x"), Missing::denied("x"), Missing::not_asked("x")];
    let map: BTreeMap<String, Json> = [("a".to_owned(), Json::Int(-7))].into();
    let values =
        [Json::Null, Json::Bool(true), Json::Int(1), Json::from("é\n\""), Json::Map(map), Json::List(vec![Json::Null])];
    let facts = missing.map(Err).into_iter().chain(values.map(Ok)).enumerate();
    let facts = facts.map(|(n, value)| Fact::measured(format!("run/library/lib{n}.so"), "a test", value)).collect();
    let about = About { scope, taken_ns: 1_790_000_000_000_000_000, version: "0.1.0", signer, nonce, regime: None };
    Statement::of(facts, &Table::built_in().unwrap(), &about)
}

/// A statement, and what is done to it.
type Change<'a> = (&'a serde_json::Value, &'a dyn Fn(&mut serde_json::Value));

/// An account with something of everything.
fn account() -> Account {
    let attempts = Attempts { connected: 1, refused: 2, observed: 3 };
    let destination = Destination { address: "2001:db8::1".parse().unwrap(), port: 443, protocol: 6 };
    let budget =
        |limit, rate| BudgetUse { name: "b".into(), to: vec!["10.0.0.0/8".into()], limit, rate, bytes: 5, dropped: 1 };
    Account {
        mode: "enforce".into(),
        totals: Some(Totals::default()),
        budgets: vec![budget(Some(9), None), budget(None, Some(7))],
        connections: Connections::Counted,
        destinations: vec![Line { destination, attempts }],
        others: attempts,
        gaps: vec!["one".into()],
    }
}

/// Runs a Python program on this input; `None`: Python or a module is missing.
fn python(modules: &str, program: &str, input: &str) -> Option<(bool, String)> {
    let has = Command::new("python3").args(["-c", &format!("import {modules}")]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        skip::skip(&format!("python3 with {modules} is not installed"));
        return None;
    }
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text))
}

#[test]
fn statements_have_the_published_form_and_altered_ones_do_not() {
    let program = r#"
import json, sys, jsonschema
schema, statements, broken = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for one in statements:
    validator.validate(one)
for one in broken:
    if validator.is_valid(one):
        print("accepted: " + json.dumps(one)[:2000])
        sys.exit(1)
"#;
    let value = |statement: &Statement| serde_json::to_value(statement).unwrap();
    let good = statement(Scope::Run, &[0xab], Some(public()));
    let statements =
        [value(&good), value(&statement(Scope::Node, &[], Some(public()))), value(&statement(Scope::Node, &[], None))];
    let account = account();
    let moment = |at, incident: &str| Moment {
        at,
        incident: incident.to_owned(),
        run: "r".into(),
        name: "n".into(),
        read_ns: "7".into(),
    };
    let stored =
        |at, incident: &str, account| statement(Scope::Run, &[], Some(public())).at(moment(at, incident), account);
    let incident = value(&stored(At::Incident, "inc-0123456789ab-3", None));
    let end = value(&stored(At::End, "", Some(account)));
    let statements = [&statements[..], &[value(&stored(At::Start, "", None)), incident.clone(), end.clone()]].concat();
    for one in &statements {
        let read = Statement::parse(serde_json::to_string(one).unwrap().as_bytes(), usize::MAX);
        assert!(read.is_ok(), "{read:?}");
    }
    // What Rust refuses of moments and accounts, the schema refuses too.
    let changes: [Change<'_>; 8] = [
        (&end, &|it| drop(it["predicate"].as_object_mut().unwrap().remove("egress"))),
        (&end, &|it| drop(it["predicate"].as_object_mut().unwrap().remove("moment"))),
        (&end, &|it| it["predicate"]["scope"] = "node".into()),
        (&end, &|it| it["predicate"]["egress"]["totals"]["more"] = 1.into()),
        (&end, &|it| it["predicate"]["egress"]["destinations"][0]["attempts"]["refused"] = (-1).into()),
        (&end, &|it| it["predicate"]["egress"]["others"]["more"] = 1.into()),
        (&incident, &|it| drop(it["predicate"]["moment"].as_object_mut().unwrap().remove("incident"))),
        (&incident, &|it| it["predicate"]["moment"]["at"] = "start".into()),
    ];
    let changed = changes.map(|(one, change)| {
        let mut one = one.clone();
        change(&mut one);
        let read = Statement::parse(serde_json::to_string(&one).unwrap().as_bytes(), usize::MAX);
        assert!(read.is_err(), "accepted: {one}");
        one
    });
    // Each field of the predicate removed, renamed, or with a value of another kind.
    let mut broken = changed.to_vec();
    let whole = value(&good);
    for name in whole["predicate"].as_object().unwrap().keys().filter(|name| *name != "nonce") {
        let mut without = whole.clone();
        let taken = without["predicate"].as_object_mut().unwrap().remove(name).unwrap();
        broken.push(without.clone());
        without["predicate"][format!("{name}x")] = taken;
        broken.push(without);
        let mut other = whole.clone();
        other["predicate"][name] = serde_json::json!({ "unexpected": 1.5 });
        broken.push(other);
    }
    for (field, wrong) in [("status", "fine"), ("class", "other"), ("assurance", "sworn"), ("path", "a//b")] {
        let mut other = whole.clone();
        other["predicate"]["factors"][0][field] = wrong.into();
        broken.push(other);
    }
    let mut float = whole.clone();
    float["predicate"]["factors"][5]["value"] = 1.5.into();
    broken.push(float);
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let input = serde_json::to_string(&serde_json::json!([schema, statements, broken])).unwrap();
    if let Some((good, text)) = python("jsonschema", program, &input) {
        assert!(good, "{text}");
    }
}

#[test]
fn securesystemslib_verifies_our_envelopes() {
    let program = r#"
import json, sys
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
public, keyid, envelope, altered = json.load(sys.stdin)
key = SSlibKey(keyid, "ed25519", "ed25519", {"public": public})
read = Envelope.from_dict(json.loads(envelope))
assert read.payload_type == "application/vnd.in-toto+json", read.payload_type
accepted = read.verify([key], 1)
assert keyid in accepted, accepted
assert json.loads(read.payload)["_type"] == "https://in-toto.io/Statement/v1"
try:
    Envelope.from_dict(json.loads(altered)).verify([key], 1)
except Exception as error:
    assert "erif" in type(error).__name__ or "ignature" in str(error), repr(error)
else:
    sys.exit("an altered envelope was accepted")
"#;
    let payload = statement(Scope::Run, &[], Some(public())).payload().unwrap();
    let envelope = seal(&payload, &public(), |message| key().sign(message).to_bytes()).unwrap();
    let altered = envelope.replacen("\"payload\":\"ey", "\"payload\":\"fy", 1);
    assert_ne!(altered, envelope);
    let input = serde_json::json!([hex::encode(public().bytes()), public().id().0, envelope, altered]).to_string();
    if let Some((good, text)) = python("securesystemslib, cryptography", program, &input) {
        assert!(good, "{text}");
    }
}
