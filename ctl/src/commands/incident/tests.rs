//! Files of incidents, made from a state folder as a daemon leaves it, and what is done to them.

mod attacks;
mod bytes;
mod export;

use super::{
    export as exporting,
    gather::{self, Bytes, Gathered},
    parts::Parts,
};
use crate::{
    args::IncidentExportArgs,
    bundle::{
        Name,
        archive::places,
        manifest::{Manifest, Part},
    },
    client::Target,
    commands::{Place, log::keys::Known},
    exit::{Exit, Fail},
    render::{
        Paint,
        bundle::{Page, Verdict},
    },
    testing,
};
use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_core::{
    Proof, State,
    decision::{Action, Decision, Outcome, Verdict as Done},
    input::{Contained, Input, Run},
    policy::{PolicySet, parse::parse},
    record::{Record, RecordingSeal},
    replay::{ENGINE, Recorded},
    signal::{Kind, Real, Signal, Source, Value},
    step,
    subject::Subject,
    time::{MonoTime, Span},
};
use failsafe_journal::{
    AuditLog, Draft, Recorder, RecordingReader, Stamp,
    storage::{Layout, LogFolder},
};
use failsafe_tlog::{Keys, Signer, VerifierKey};
use jiff::tz::TimeZone;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"diverged\"\nrationale = \"x\"\n\
                      when = { signal = \"metric.loss\", above = 10.0 }\nactions = [\"freeze\", \"snapshot\"]\n";

struct TestSigner(SigningKey, VerifierKey);

impl Signer for TestSigner {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn signer(seed: u8) -> TestSigner {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = VerifierKey::new("failsafe", &key.verifying_key().to_bytes()).unwrap();
    TestSigner(key, public)
}

/// The list of a verifier that trusts one node.
fn keys(seed: u8) -> Known {
    Known::parse(signer(seed).1.to_string().as_bytes(), false).unwrap()
}

fn run() -> Run {
    Run {
        id: testing::run_id(),
        name: "trainer".into(),
        labels: Default::default(),
        owner_uid: 1000,
        cgroup: "c".into(),
        cgroup_id: 7,
        boot_id: "b".into(),
        policy: parse("p", POLICY).unwrap().digest(),
        gpus: Default::default(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Contained::default(),
    }
}

fn outcome(decision: &Decision, action: Action) -> Outcome {
    Outcome {
        decision: decision.id,
        incident: decision.incident,
        action,
        verdict: Done::Proved,
        proofs: vec![Proof { fact: "cgroup.events frozen".into(), seen: "1".into() }],
        at: MonoTime(decision.at.0 + 1_000),
        took: Span(1_000),
    }
}

/// A run whose loss takes these values: what the daemon records, outcomes of each decision included.
fn lived(losses: &[f64]) -> Vec<Recorded> {
    let policies: PolicySet = [(run().policy, Arc::new(parse("p", POLICY).unwrap()))].into();
    let mut state = State::default();
    let mut out = Vec::new();
    let mut inputs: std::collections::VecDeque<Input> = [Input::RunStarted(run())].into();
    let signals = (1_u64..).zip(losses).map(|(seq, loss)| {
        Input::Signal(Signal {
            seq,
            at: MonoTime(seq * 1_000_000_000),
            source: Source::App,
            subject: Subject::Run(run().id),
            kind: Kind::Metric("loss".into()),
            value: Value::Real(Real(*loss)),
            repeats: 0,
        })
    });
    inputs.extend(signals);
    while let Some(input) = inputs.pop_front() {
        let decisions = step(&policies, &mut state, &input);
        out.push(Recorded::Input(input));
        for decision in decisions {
            let outcomes = decision.actions.iter().map(|action| Input::Outcome(outcome(&decision, *action)));
            outcomes.rev().for_each(|input| inputs.push_front(input));
            out.push(Recorded::Decision(decision));
        }
    }
    out
}

/// A state folder, as a daemon leaves it.
struct Node {
    folder: tempfile::TempDir,
    now: Stamp,
}

/// Whether the run of a node has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Ended,
    Lives,
}

impl Node {
    fn new(losses: &[f64], life: Life) -> Node {
        let now = Stamp { wall_ns: testing::EPOCH, mono_ns: 0, boot_id: "b".into() };
        let node = Node { folder: tempfile::tempdir().unwrap(), now };
        for folder in ["policies", &format!("runs/{}", testing::RUN)] {
            fs::create_dir_all(node.path(folder)).unwrap();
        }
        let policy = parse("p", POLICY).unwrap();
        let digest = hex::encode(policy.digest().0);
        fs::write(node.path(&format!("policies/{digest}.json")), serde_json::to_vec(&policy).unwrap()).unwrap();
        fs::write(node.path("log.keys"), format!("{}\n", signer(1).1)).unwrap();
        let entries = lived(losses);
        let seal = node.record(&entries, life);
        node.log(&node.records(&entries, seal, life), 1);
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn recording(&self) -> PathBuf {
        self.path(&format!("runs/{}/0000.fsrec", testing::RUN))
    }

    /// Writes the recording. Returns what the log has of it.
    fn record(&self, entries: &[Recorded], life: Life) -> RecordingSeal {
        let header = serde_json::json!({
            "format": "failsafe-recording", "version": 1, "engine": ENGINE, "part": 0, "run": run(),
            "policy": parse("p", POLICY).unwrap(), "host": { "hostname": "n1" }
        });
        let mut recorder = Recorder::create(&self.recording(), &header, 1 << 20).unwrap();
        for entry in entries {
            recorder.record(1, entry).unwrap();
        }
        match life {
            Life::Ended => drop(recorder.finish().unwrap()),
            Life::Lives => drop(recorder),
        }
        let mut reader = RecordingReader::open(&self.recording()).unwrap();
        let frames = reader.by_ref().map(Result::unwrap).count() as u64;
        let hash = reader.hash().map(hex::encode);
        RecordingSeal { part: 0, frames, hash, complete: true, problem: None }
    }

    fn records(&self, entries: &[Recorded], seal: RecordingSeal, life: Life) -> Vec<Record> {
        let (run, policy_name) = (run(), "p v1".to_owned());
        let mut records = vec![Record::RunStarted { run, policy_name, broken: Vec::new(), repair: Vec::new() }];
        for entry in entries {
            match entry {
                Recorded::Decision(decision) => {
                    records.push(Record::Decision {
                        decision: decision.clone(),
                        rule: None,
                        blind: None,
                        drill: false,
                    });
                }
                Recorded::Input(Input::Outcome(outcome)) => {
                    if outcome.action == Action::Snapshot {
                        let Record::Evidence { snapshot, .. } = testing::evidence() else { panic!("no evidence") };
                        records.push(Record::Evidence { decision: outcome.decision.n, snapshot });
                    }
                    records.push(Record::Outcome(outcome.clone()));
                }
                Recorded::Input(_) => {}
            }
        }
        if life == Life::Ended {
            records.push(Record::RunEnded {
                run: testing::run_id(),
                name: "trainer".into(),
                recording: Some(seal),
                suppressed: Vec::new(),
                unwatched: None,
                frozen_ns: None,
            });
        }
        records
    }

    /// Writes these records, with entries about other things between them, and signs the log.
    fn log(&self, records: &[Record], by: u8) {
        let checkpoint = Some((self.path("log.checkpoint"), Keys::of(vec![signer(by).1])));
        let layout = Layout {
            segment_bytes: 1 << 20,
            reserve_bytes: 0,
            heads: vec![self.path("head.json")],
            checkpoint,
            ..Layout::default()
        };
        let mut log = AuditLog::open(LogFolder::open(&self.path("audit"), layout).unwrap(), &self.now).unwrap().0;
        for record in records {
            let mut draft =
                Draft::new(record.kind(), self.now.clone(), serde_json::to_value(record).unwrap()).run(testing::RUN);
            if matches!(record, Record::Decision { .. } | Record::Outcome(_) | Record::Evidence { .. }) {
                draft = draft.incident(testing::incident().to_string());
            }
            log.append(&draft).unwrap();
            log.append(&Draft::new("heartbeat", self.now.clone(), serde_json::json!({}))).unwrap();
            log.commit().unwrap();
        }
        log.sign(&signer(by), false).unwrap();
    }

    fn export_to(&self, file: &Path) -> Result<Exit, Fail> {
        let place =
            Place { daemon: &Target::Socket("/nowhere".into()), state_dir: self.folder.path(), zone: TimeZone::UTC };
        let args = IncidentExportArgs {
            incident: testing::incident(),
            output: file.to_owned(),
            force: false,
            offline: true,
            wait: std::time::Duration::ZERO,
            json: false,
        };
        exporting::export(&place, &args)
    }

    /// Exports the incident.
    fn export(&self) -> Exported {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("incident.tar");
        let exit = self.export_to(&file).unwrap();
        Exported { folder, exit }
    }
}

/// The parts of a file.
type PartBytes = BTreeMap<Name, Vec<u8>>;

/// A file of an incident, in a folder of its own.
struct Exported {
    folder: tempfile::TempDir,
    exit: Exit,
}

impl Exported {
    fn file(&self) -> PathBuf {
        self.folder.path().join("incident.tar")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.file()).unwrap()
    }

    /// Its parts.
    fn parts(&self) -> PartBytes {
        let bytes = self.bytes();
        let places = places(&Bytes(bytes.clone())).unwrap();
        let part = |begin: u64, len: u64| bytes[begin as usize..(begin + len) as usize].to_vec();
        places.into_iter().map(|(name, (begin, len))| (name, part(begin, len))).collect()
    }

    /// Replaces the parts, as somebody does it who makes list and digests anew.
    fn forge(&self, change: impl FnOnce(&mut PartBytes)) {
        self.forge_from(&self.parts(), change);
    }

    /// The same, of these parts.
    fn forge_from(&self, original: &PartBytes, change: impl FnOnce(&mut PartBytes)) {
        let mut parts = original.clone();
        let mut manifest: Manifest = serde_json::from_slice(&parts[&Name::Manifest]).unwrap();
        change(&mut parts);
        let mut gathered = Gathered::default();
        for (name, bytes) in parts {
            if !matches!(name, Name::Manifest | Name::Sums) {
                gathered.add(name, bytes);
            }
        }
        manifest.parts.clear();
        for (name, content) in &gathered.parts {
            let bytes = content.len().unwrap();
            manifest.parts.push(Part {
                name: name.to_string(),
                media_type: name.media_type().into(),
                bytes,
                sha256: super::parts::sha256(content.as_ref(), bytes).unwrap(),
                proved_by: None,
            });
        }
        let mut file = Vec::new();
        exporting::write(&mut file, &gathered, &manifest).unwrap();
        fs::write(self.file(), file).unwrap();
    }

    /// What the file proves to somebody with these keys.
    fn verify(&self, keys: Option<&Known>) -> (Verdict, String) {
        let checked = super::read(&self.file(), keys).unwrap();
        let incident = checked.incident();
        let file = Path::new("incident.tar");
        let page = Page { file, findings: &checked.findings, incident: incident.as_ref(), zone: &TimeZone::UTC };
        serde_json::to_vec(&page.json()).unwrap();
        (checked.findings.verdict(), page.text(Paint::plain()))
    }
}

const LOSSES: &[f64] = &[2.0, 12.0, 3.0];

#[test]
fn a_file_proves_the_incident_to_somebody_who_has_only_the_key() {
    let exported = Node::new(LOSSES, Life::Ended).export();
    assert_eq!(exported.exit, Exit::Done);
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::Proved, "{page}");
    insta::assert_snapshot!(page);
    let (verdict, page) = exported.verify(None);
    assert_eq!(verdict, Verdict::KeyNotChecked, "{page}");
    assert!(page.contains("NOTHING IS PROVED") && page.contains("Would be proved, if the key is the node's"), "{page}");
    let (verdict, page) = exported.verify(Some(&keys(2)));
    assert_eq!(verdict, Verdict::NotValid, "{page}");
    assert!(page.contains("no signature is by a known key"), "{page}");
}
