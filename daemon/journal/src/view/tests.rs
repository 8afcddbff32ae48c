//! The fast way to read an entry judges every text as the slow one does.

use super::*;
use crate::clock::Stamp;
use crate::entry::{Draft, kind};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn sealed(body: Value, run: Option<String>) -> Vec<u8> {
    let stamp = Stamp { wall_ns: 7, mono_ns: 5, boot_id: "b".into() };
    let mut draft = Draft::new(kind::DECISION, stamp, body);
    draft.run = run;
    draft.prepare().unwrap().seal(3, &[0xab; 32]).bytes.to_vec()
}

/// What both ways to read an entry must agree on.
fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    match (View::parse(bytes), Entry::parse(bytes)) {
        (Ok(view), Ok(entry)) => {
            prop_assert_eq!(view.index, entry.index);
            prop_assert_eq!(view.entry(), Ok(entry.clone()));
            prop_assert_eq!((view.prev, view.wall_ns, view.leaf_hash), (entry.prev, entry.wall_ns, entry.leaf_hash));
            prop_assert_eq!((view.mono_ns, &*view.boot_id), (entry.mono_ns, entry.boot_id.as_str()));
            prop_assert_eq!(&*view.kind, entry.kind.as_str());
            prop_assert_eq!(
                (view.run.as_deref(), view.incident.as_deref()),
                (entry.run.as_deref(), entry.incident.as_deref())
            );
        }
        (Err(a), Err(b)) => prop_assert_eq!(a, b),
        (a, b) => prop_assert!(false, "{}: {a:?}, {b:?}", String::from_utf8_lossy(bytes)),
    }
    Ok(())
}

/// Also the names by which `serde_json` passes values of other types, which a feature of it anywhere in the build makes special.
fn name() -> impl Strategy<Value = String> {
    let private = ["$serde_json::private::RawValue", "$serde_json::private::Number"];
    prop_oneof![4 => "[a-c_\"é]{0,3}", 1 => prop::sample::select(private.to_vec()).prop_map(str::to_owned)]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|n| Value::from(f64::from(n) / 8.0)),
        "[ -~]{0,12}".prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        proptest::collection::vec(any::<char>(), 0..4)
            .prop_map(|chars| Value::from(chars.into_iter().collect::<String>())),
        "[\u{0}-\u{1f}\"\\\\]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(name(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn entry() -> impl Strategy<Value = Vec<u8>> {
    let body = proptest::collection::btree_map("[a-z]{1,4}", value(), 0..5)
        .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()));
    (body, proptest::option::of("[a-z\"]{0,6}")).prop_map(|(body, run)| sealed(body, run))
}

#[test]
fn the_usual_form_is_read_without_writing_the_entry_anew() {
    let body = json!({
        "a": [1, -2, 2.5, 1e300, u64::MAX / 2, null, true, false],
        "text": "quoted \"x\" \\ \n\u{1} é",
        "z": { "empty": {}, "list": [] },
    });
    let bytes = sealed(body, Some("r1".into()));
    let view = usual(&bytes).unwrap();
    assert_eq!((&*view.kind, view.run.as_deref(), view.incident.as_deref()), ("decision", Some("r1"), None));
    agree(&bytes).unwrap();
}

#[test]
fn other_texts_of_the_same_meaning_are_refused_as_an_entry_is() {
    let body = json!({ "at": 1, "b": 2.5, "c": "x\ny\u{1}", "d": [-1, 0], "e": { "f": 1, "g": 2 } });
    let text = String::from_utf8(sealed(body, Some("r1".into()))).unwrap();
    for (from, to) in [
        ("2.5", "2.50"),
        ("2.5", "25e-1"),
        ("2.5", "2.5e0"),
        ("2.5", "+2.5"),
        ("2.5", "2."),
        ("2.5", ".5"),
        ("2.5", "inf"),
        ("2.5", "NaN"),
        ("2.5", "1e999"),
        ("-1", "-01"),
        ("-1", "-0"),
        ("-1", "--1"),
        ("-1", "-"),
        ("-1", ""),
        ("-1,", "-1,,"),
        ("0]", "00]"),
        ("0]", "0,]"),
        ("0]", "18446744073709551616]"),
        ("0]", "-9223372036854775809]"),
        ("\"at\"", "\"\\u0061t\""),
        ("\\n", "\\u000a"),
        ("\\n", "\n"),
        ("\\u0001", "\\u0001\\/"),
        ("\\u0001", "\\u001F"),
        ("\\u0001", "\\u0041"),
        ("\\u0001", "\u{1}"),
        ("\"f\":1,\"g\":2", "\"g\":2,\"f\":1"),
        ("\"g\"", "\"f\""),
        ("\"index\":3", "\"index\": 3"),
        ("\"index\":3", "\"index\":03"),
        ("\"index\":3", "\"index\":-3"),
        ("abab", "ABab"),
        ("abab", "aba"),
        ("decision", "De"),
        ("decision", ""),
        ("\"r1\"", "1"),
        ("\"incident\":null,", ""),
        ("}}}", "}},\"x\":1}"),
        ("}}", "}} "),
        ("}}", "}"),
        ("\"body\":{", "\"body\":[{"),
        ("\"run\":\"r1\",", "\"run\":\"r0\",\"run\":\"r1\","),
    ] {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text, "{from}");
        assert!(View::parse(other.as_bytes()).is_err(), "{other}");
        agree(other.as_bytes()).unwrap();
    }
}

#[test]
fn names_that_serde_json_uses_itself_are_names() {
    for name in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
        let body = json!({ "labels": { name: "{\"failsafe.user\":\"root\"}" } });
        let bytes = sealed(body.clone(), None);
        let entry = Entry::parse(&bytes).unwrap();
        assert_eq!((&entry.body, View::parse(&bytes).unwrap().entry().as_ref()), (&body, Ok(&entry)));
    }
}

#[test]
fn limits_are_those_of_an_entry() {
    let nest = |n: usize| (0..n).fold(json!(1), |inner, _| json!([inner]));
    let deepest = sealed(json!({ "x": nest(canonical::MAX_DEPTH - 1) }), None);
    assert!(usual(&deepest).is_some());
    let text = String::from_utf8(deepest).unwrap();
    let deeper = text.replacen('1', "[1]", 9).replacen("[[", "[[[", 1);
    agree(deeper.as_bytes()).unwrap();
    for long in [MAX_FIELD_BYTES, MAX_FIELD_BYTES + 1] {
        let text =
            String::from_utf8(sealed(json!({}), Some("r1".into()))).unwrap().replacen("r1", &"r".repeat(long), 1);
        agree(text.as_bytes()).unwrap();
        assert_eq!(View::parse(text.as_bytes()).is_ok(), long == MAX_FIELD_BYTES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_entry_is_accepted_with_the_same_fields(bytes in entry()) {
        agree(&bytes)?;
        prop_assert!(View::parse(&bytes).is_ok());
    }

    #[test]
    fn changed_bytes_are_judged_as_an_entry_judges_them(bytes in entry(), at in any::<prop::sample::Index>(), with in prop_oneof![
        any::<u8>(), prop::sample::select(b"0123456789-+.eE\"\\{}[],: ntbru".to_vec()),
    ], what in 0..3) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        match what {
            0 => bytes[at] = with,
            1 => bytes.insert(at, with),
            _ => drop(bytes.remove(at)),
        }
        agree(&bytes)?;
    }
}
