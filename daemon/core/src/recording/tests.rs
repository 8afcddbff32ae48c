//! The numbers are the ones of the fixture, and every entry survives.

use super::numbers::{ENUMS, number, variant};
use super::*;
use crate::{
    actor::Actor,
    decision::{self, Action, Cause, Confidence, Mode, Severity, Upkeep},
    event::{
        self, Access, Assurance, DriftSince, Event, ExecKind, FactorClass, Gain, GpuEvent, MemoryKind, NetOp, Via,
    },
    input::{Command, Input},
    signal::{Kind, Series, Source, Value},
    subject::Subject,
};
use serde::de::{Error, Visitor, value};
use std::{collections::BTreeSet, net::IpAddr};

/// The numbers as they are in recordings that exist.
const FIXTURE: &str = include_str!("../../../../tests/fixtures/recordings/numbers.txt");
/// Entries of recordings of version 6, as JSON.
const ENTRIES: &str = include_str!("../../../../tests/fixtures/recordings/v6.jsonl");
/// Entries with variants that came later: at least one for each that holds something.
const MORE: &[&str] = &[
    r#"{"Input":{"Signal":{"seq":1,"at":1,"source":"Cgroup","subject":{"Run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d"},"kind":"Suspended","value":{"Integer":1},"repeats":0}}}"#,
    r#"{"Input":{"Paused":{"at":9000000000,"length":5000000000}}}"#,
    r#"{"Input":{"Missing":{"seq":1,"at":9,"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","metrics":{"a":"no value in 3.0 s","b":"no value in 3.0 s"},"rules":["r"]}}}"#,
    r#"{"Input":{"Manifest":{"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","values":{"hyperparameters.lr":"0.0003"},"at":9}}}"#,
    r#"{"Input":{"Mode":{"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","mode":"observe","at":9}}}"#,
    r#"{"Input":{"Control":{"seq":1,"at":1,"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","command":"freeze","actor":{"local":{"uid":7,"gid":8,"pid":9,"start_ticks":10,"cgroup":"/a"}},"role":"owner","reason":"x"}}}"#,
    r#"{"Input":{"Control":{"seq":1,"at":1,"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","command":"freeze","actor":{"remote":{"name":"ops","method":"mtls"}},"role":"admin","reason":"x"}}}"#,
    r#"{"Input":{"Control":{"seq":1,"at":1,"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","command":"freeze","actor":{"schedule":{"name":"nightly"}},"role":"admin","reason":"x"}}}"#,
    r#"{"Input":{"Control":{"seq":1,"at":1,"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","command":"freeze","actor":"daemon","role":"admin","reason":"x"}}}"#,
    r#"{"Input":{"Signal":{"seq":1,"at":1,"source":"Ebpf","subject":{"Run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d"},"kind":"Event","value":{"Event":{"Fork":{"child":0,"verdict":"Latched"}}},"repeats":0}}}"#,
    r#"{"Input":{"Signal":{"seq":1,"at":1,"source":"Ebpf","subject":{"Run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d"},"kind":"Event","value":{"Event":{"Fork":{"child":0,"verdict":"DeadDaemon"}}},"repeats":0}}}"#,
    r#"{"Input":{"Signal":{"seq":1,"at":1,"source":"Guard","subject":{"Run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d"},"kind":"Event","value":{"Event":{"Drift":{"path":"run/cpu/count","old":"4","new":"2","class":"Result","since":"Earlier"}}},"repeats":0}}}"#,
    r#"{"Input":{"Signal":{"seq":1,"at":1,"source":"Guard","subject":{"Run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d"},"kind":"Event","value":{"Event":{"Drift":{"path":"run/cpu/list","old":null,"new":"2","class":"Performance","since":"Predecessor"}}},"repeats":0}}}"#,
    r#"{"Decision":{"id":{"run":"01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d","n":1},"incident":"inc-5f0c9a1b2c3d-1","at":1,"cause":{"Upkeep":{"what":"drift"}},"actions":["freeze"],"because":[1],"values":[],"confidence":"high","severity":"critical","mode":"enforce","policy":"sha256:80098b614ac175cfa6680f6f65fdca136d8a4cdf7d1bed5536f4709e8d6349d3"}}"#,
];

#[test]
fn no_number_has_moved() {
    let mut table: BTreeSet<String> = BTreeSet::new();
    for row in ENUMS {
        table.extend(row.variants.iter().map(|(number, variant)| format!("{} {number} {variant}", row.name)));
    }
    let fixture: BTreeSet<String> = FIXTURE.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let gone: Vec<_> = fixture.difference(&table).collect();
    assert!(
        gone.is_empty(),
        "these numbers are in recordings that exist, and numbers.rs has them no longer: {gone:?}. A number that moves or gets \
         another meaning changes what old recordings say. Restore the rows; a variant that is removed from the source keeps its row"
    );
    let new: Vec<_> = table.difference(&fixture).collect();
    assert!(new.is_empty(), "add these rows to tests/fixtures/recordings/numbers.txt, and change no other: {new:?}");
}

#[test]
fn no_number_and_no_variant_is_there_twice() {
    assert!(ENUMS.is_sorted_by(|a, b| a.name < b.name), "numbers.rs is sorted by the name of the enum");
    for row in ENUMS {
        let numbers: BTreeSet<u32> = row.variants.iter().map(|row| row.0).collect();
        let names: BTreeSet<&str> = row.variants.iter().map(|row| row.1).collect();
        let counts = (numbers.len(), names.len());
        assert_eq!(counts, (row.variants.len(), row.variants.len()), "{}: each number and each variant once", row.name);
    }
}

/// Asks a type for its enum's name and variants.
struct Asked<'a>(&'a Cell<Option<(&'static str, &'static [&'static str])>>);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
        Err(value::Error::custom("no enum"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, value::Error> {
        self.0.set(Some((name, variants)));
        Err(value::Error::custom("asked"))
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

fn asked<'de, T: Deserialize<'de>>() -> (&'static str, &'static [&'static str]) {
    let asked = Cell::new(None);
    let refused = T::deserialize(Asked(&asked)).is_err();
    asked.get().filter(|_| refused).unwrap()
}

#[test]
fn every_variant_of_the_source_has_a_number() {
    let all = [
        asked::<Access>(),
        asked::<Action>(),
        asked::<Actor>(),
        asked::<Assurance>(),
        asked::<Cause>(),
        asked::<Command>(),
        asked::<Confidence>(),
        asked::<DriftSince>(),
        asked::<Event>(),
        asked::<FactorClass>(),
        asked::<ExecKind>(),
        asked::<Gain>(),
        asked::<GpuEvent>(),
        asked::<Input>(),
        asked::<IpAddr>(),
        asked::<Kind>(),
        asked::<MemoryKind>(),
        asked::<Mode>(),
        asked::<NetOp>(),
        asked::<decision::Verdict>(),
        asked::<Series>(),
        asked::<Severity>(),
        asked::<Source>(),
        asked::<Subject>(),
        asked::<Upkeep>(),
        asked::<Value>(),
        asked::<event::Verdict>(),
        asked::<Via>(),
    ];
    for (name, variants) in all {
        for (at, variant_name) in (0..).zip(variants) {
            let found = number(name, at, variant_name);
            let next =
                ENUMS.iter().find(|row| row.name == name).and_then(|row| row.variants.iter().map(|row| row.0).max());
            assert!(
                found.is_some(),
                "{name}::{variant_name} has no number: add ({}, \"{variant_name}\") at the end of {name} in \
                 daemon/core/src/recording/numbers.rs",
                next.map_or(0, |next| next + 1)
            );
            assert_eq!(found.and_then(|number| variant(name, number)), Some(*variant_name));
        }
    }
    // `Recorded` reads and writes itself.
    let listed: BTreeSet<&str> = all.iter().map(|(name, _)| *name).chain(["Recorded"]).collect();
    assert_eq!(listed, ENUMS.iter().map(|row| row.name).collect(), "each enum of the table is listed in this test");
}

fn entries() -> Vec<Recorded> {
    let entry = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    ENTRIES.lines().chain(MORE.iter().copied()).map(entry).collect()
}

#[test]
fn the_entries_have_every_variant_and_survive() {
    let text = format!("{ENTRIES}{}", MORE.concat());
    for row in ENUMS.iter().filter(|row| row.name != "IpAddr") {
        // Of the core's own states only `Real` is not written any more.
        let missing =
            row.variants.iter().filter(|(_, variant)| *variant != "Real" && !text.contains(&format!("\"{variant}\"")));
        let missing: Vec<&str> = missing.map(|(_, variant)| *variant).collect();
        assert!(missing.is_empty(), "{}: add entries with these variants to `MORE`: {missing:?}", row.name);
    }
    for entry in entries() {
        let bytes = postcard::to_allocvec(&entry).unwrap();
        assert_eq!(postcard::from_bytes::<Recorded>(&bytes).unwrap(), entry);
    }
}

#[test]
fn the_numbers_do_not_depend_on_the_order_in_the_source() {
    // The same variants in another order, one renumbered.
    #[derive(Serialize)]
    #[serde(rename = "Access")]
    enum Turned {
        Write,
        Read,
    }
    let bytes = |value: Turned| postcard::to_allocvec(&Numbering(&value)).unwrap();
    assert_eq!((bytes(Turned::Read), bytes(Turned::Write)), (vec![0], vec![1]));
    #[derive(Serialize)]
    enum Stranger {
        New,
    }
    assert!(postcard::to_allocvec(&Numbering(&Stranger::New)).is_err(), "what has no number is not written");
}

#[test]
fn an_unknown_number_is_reported_by_name() {
    let reading = Reading::default();
    let read = |bytes: &[u8]| (&reading).deserialize(&mut postcard::Deserializer::from_bytes(bytes));
    // Recorded::Input, Input number 99.
    assert!(read(&[0, 99]).is_err());
    let unknown = reading.unknown().unwrap();
    assert_eq!((unknown.name, unknown.number, unknown.variant), ("Input", 99, None));
    assert_eq!(unknown.to_string(), "it has Input number 99, which this program does not know");
    // Damage has no such reason, and an entry that can be read clears it.
    assert!(read(&[0, 1]).is_err() && reading.unknown().is_none());
    assert!(read(&[0, 1, 7]).is_ok() && reading.unknown().is_none());
}
