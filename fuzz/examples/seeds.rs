//! Writes the first inputs of each target to `corpus/TARGET/`: valid files, as failsafe writes them. Run it in the folder `fuzz`.

#[expect(dead_code, reason = "only the writers of the module are used")]
#[path = "../../ctl/src/bundle/mod.rs"]
mod bundle;

use bundle::{Name, archive};
use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_attest::{
    About, Fact, Json, Pcrs, PublicKey, Scope, Statement, Table, TpmKey, reference::Reference, seal,
};
use failsafe_journal::{
    AuditLog, Draft, Entry, Stamp,
    segments::{Builder, CATALOG_FILE},
    storage::{LOG_FILE, Layout, LogFolder},
    tree::{SignedTree, extends::extends, prove::prove},
};
use failsafe_tlog::{
    Checkpoint, ConsistencyFile, Cosigner, Keys, Signer, VerifierKey, WitnessKey, tile, witness::judge,
};
use failsafe_tpm::{Public, wire::put_sized};
use std::{error::Error, fs, path::Path};

struct Key(SigningKey, VerifierKey);

impl Signer for Key {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

struct Witness(SigningKey, WitnessKey);

impl Cosigner for Witness {
    fn key(&self) -> &WitnessKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let state = tempfile::tempdir()?;
    let dir = state.path().join("audit");
    let latest = state.path().join("log.checkpoint");
    let secret = SigningKey::from_bytes(&[1; 32]);
    let key = Key(secret.clone(), VerifierKey::new("failsafe", &secret.verifying_key().to_bytes())?);
    let stamp = |n| Stamp { wall_ns: 1_000 + n, mono_ns: n, boot_id: "b".into() };
    let checkpoint = Some((latest.clone(), Keys::of(vec![key.1.clone()])));
    let layout = Layout { reserve_bytes: 0, checkpoint, ..Layout::default() };
    let (mut log, _) = AuditLog::open(LogFolder::open(&dir, layout)?, &stamp(0))?;
    let mut notes = Vec::new();
    for n in 0..5 {
        let body = serde_json::json!({ "n": n, "text": "a text" });
        log.append(&Draft::new("run", stamp(n), body).run("00000000-0000-0000-0000-000000000001"))?;
        log.commit()?;
        if n >= 3 {
            log.sign(&key, false)?;
            notes.push(fs::read(&latest)?);
        }
    }
    drop(log);
    let image = fs::read(dir.join(LOG_FILE))?;
    let (entries, _) = failsafe_journal::parse_frames(&image);
    let open = |note: &[u8]| Checkpoint::unverified(note);
    let tree = |note: &[u8]| SignedTree::of(open(note)?).ok_or_else(|| Box::<dyn Error>::from("an origin"));
    let (old, new) = (tree(&notes[0])?, tree(&notes[1])?);
    let proof = prove(&dir, 2, open(&notes[1])?, notes[1].clone())?;
    let consistency =
        ConsistencyFile { old: old.size, hashes: extends(&dir, &old, &new)?, checkpoint: notes[1].clone() };
    let mut index = Builder::new(0);
    for (at, entry) in entries.iter().enumerate() {
        let Entry { wall_ns, kind, run, incident, .. } = entry.clone();
        index.push(at as u64 * 100, &failsafe_journal::entry::About { wall_ns, kind, run, incident });
    }

    let public = PublicKey::from(secret.verifying_key());
    let facts = vec![Fact::measured("node/cpu/model", "a seed", Ok(Json::from("a CPU")))];
    let about =
        About { scope: Scope::Node, taken_ns: 1, version: "0", signer: Some(public), nonce: &[7; 8], regime: None };
    let statement = Statement::of(facts, &Table::built_in()?, &about);
    let payload = statement.payload()?;
    let reference = Reference::of(&[&statement], &Table::built_in()?, None, &[])?;
    let reference = reference.with_pcrs(&[Pcrs([(0, [1; 32]), (7, [2; 32])].into())], &[]).text()?;
    let envelope = seal(&payload, &public, |message| secret.sign(message).to_bytes())?.into_bytes();

    let mut tar = Vec::new();
    archive::add(&mut tar, Name::Checkpoint, &notes[1].as_slice())?;
    archive::add(&mut tar, Name::Statement, &envelope.as_slice())?;
    archive::add(&mut tar, Name::Entry(2), &entries[2].bytes.as_ref())?;
    archive::finish(&mut tar)?;

    let bytes: Vec<&[u8]> = entries.iter().map(|entry| entry.bytes.as_ref()).collect();
    let hashes = entries.iter().flat_map(|entry| entry.leaf_hash).collect::<Vec<u8>>();
    write("log", &[image])?;
    write("checkpoint", &[notes[0].clone(), key.1.to_string().into_bytes()])?;
    write("proof", &[proof.encode()])?;
    write("consistency", &[consistency.encode()])?;
    let secret = SigningKey::from_bytes(&[2; 32]);
    let witness = Witness(secret.clone(), WitnessKey::new("witness.example/w1", secret.verifying_key().as_bytes())?);
    let first = ConsistencyFile { old: 0, hashes: Vec::new(), checkpoint: notes[0].clone() };
    let cosigned = judge(&first, None, &Keys::of(vec![key.1.clone()]), 1_700_000_000, &witness)?;
    let policy = format!("# a policy\nlog {}\nwitness w1 {} url\ngroup g any w1\nquorum g\n", key.1, witness.1);
    let witness = witness.1.to_string().into_bytes();
    write("witness_policy", &[policy.into_bytes(), cosigned.note, witness, first.encode(), consistency.encode()])?;
    write("tpm", &tpm())?;
    write("reference", &[reference.into_bytes()])?;
    write("tiles", &[b"tile/0/x001/067.p/3".to_vec(), hashes, tile::encode_entries(bytes)?])?;
    write("segment_index", &[index.index().encode()])?;
    write("bundle", &[tar])?;
    let line = format!("{} {} node\n", public.id(), public.base64());
    write("keys", &[line.clone().into_bytes(), keys(&line)?.into_bytes()])?;
    write("envelope", &[envelope, payload.into_bytes(), line.into_bytes()])?;
    write("ima", &ima()?)?;
    write("catalog", &[catalog()?])?;
    let recordings = Path::new("../tests/fixtures/recordings");
    write("recording", &[fs::read(recordings.join("v9.fsrec"))?])?;
    runs()
}

/// What users write for their runs: the shipped policies with their tests, and texts that use what those do not.
fn runs() -> Result<(), Box<dyn Error>> {
    let (mut policies, mut tests) = (vec![CONDITIONS.into(), TEMPLATE.into()], vec![SHORT_TEST.into()]);
    let mut shipped: Vec<_> =
        fs::read_dir("../policies")?.map(|file| Ok(file?.path())).collect::<std::io::Result<_>>()?;
    shipped.sort();
    for path in shipped.iter().filter(|path| path.with_extension("test.toml").exists()) {
        let (policy, test) = (fs::read(path)?, fs::read(path.with_extension("test.toml"))?);
        tests.push([&policy[..], b"\0", &test].concat());
        policies.push(policy);
    }
    policies.push(fs::read("../tests/fixtures/policies/every-section.toml")?);
    let included = [INCLUDES, COMMON, TEMPLATE_FILE].join("\0");
    write("run_policy", &policies)?;
    write("policy_test", &tests)?;
    write("include", &[included.into_bytes()])?;
    write("metric_line", &[b"loss 2.31 7\nacc nan\nlr -1e-4 rank=3\ngrad_norm 1.5 7 rank=node-0.3\n".to_vec()])?;
    write(
        "manifest",
        &[MANIFEST.into(), br#"{"code":{"commit":"6b92a44"},"regime":"seeded","seeds":{"torch":42}}"#.to_vec()],
    )?;
    write("kernel_record", &[RECORDS.into(), fs::read("../policies/kernel-log.toml")?])?;
    Ok(())
}

/// A list of allowed keys with a key of a TPM, a certificate of its endorsement key, and one that was activated.
fn keys(line: &str) -> Result<String, Box<dyn Error>> {
    // The point from which the keys of P-256 are made.
    let point = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                 4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    let point: [u8; 64] = hex::decode(point)?.try_into().map_err(|_| "a point")?;
    let key = TpmKey::of(Public::of_point(&point))?;
    let (id, base64) = (key.id(), key.base64());
    // 0x30 0x81 0x80, and 128 bytes.
    let certificate = format!("MIGA{}=", "A".repeat(171));
    let other = format!("MIGA{}A=", "B".repeat(170));
    Ok(format!("# a node\n{line}{id} tpm:{base64} node\n{id} ek:{certificate} RSA\n{id} ek:{other} activated RSA\n"))
}

/// Lists behind the value of the PCR.
fn ima() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let folder = Path::new("../tests/fixtures/ima");
    let pcr = hex::decode(fs::read_to_string(folder.join("pcr10"))?.trim())?;
    let lists = ["ascii_runtime_measurements", "binary_runtime_measurements", "binary_runtime_measurements_sha256"];
    lists.iter().map(|name| Ok([pcr.clone(), fs::read(folder.join(name))?].concat())).collect()
}

/// The catalog of a log with three sealed segments.
fn catalog() -> Result<Vec<u8>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let layout = Layout { segment_bytes: 1, reserve_bytes: 0, ..Layout::default() };
    let stamp = |n| Stamp { wall_ns: n, mono_ns: n, boot_id: "b".into() };
    let (mut log, _) = AuditLog::open(LogFolder::open(dir.path(), layout)?, &stamp(0))?;
    for n in 0..3 {
        log.append(&Draft::new("run", stamp(n), serde_json::json!({ "n": n })).run(format!("run-{n}")))?;
        log.commit()?;
        log.seal_if_due(stamp(n));
        log.commit()?;
    }
    Ok(fs::read(dir.path().join(CATALOG_FILE))?)
}

const CONDITIONS: &str = r#"
[policy]
name = "p"
owner = "o"
[[rule]]
id = "parts"
rationale = "x"
when = { at_least = 2, of = [{ signal = "metric.loss", above = 1000, clear = 900, for = "1s" }, { signal = "metric.loss", above = 1000, over = "mean" }, { signal = "net.egress_bytes", above = "1 TB/s", over = "1s" }, { event = "oom", within = "1m" }, { event = "connect", count = 1000, within = "1m" }, { signal = "metric.loss", absent = "1h" }, { not = { phase = "train" } }], for = "1s", keep_firing_for = "1m" }
actions = ["freeze"]
[[rule]]
id = "baselines"
rationale = "x"
when = { all = [{ signal = "metric.loss", above = { first = "30s", factor = 10 } }, { signal = "metric.loss", below = { signal = "metric.phase", factor = 0.5 } }, { signal = "metric.accuracy", below = { manifest = "config.accuracy", offset = -0.1 } }, { signal = "metric.loss", above = { first = "90 steps", statistic = "mean", factor = 2 }, over = "all" }], warm_up = "10 steps" }
actions = ["snapshot", "notify"]
[[rule]]
id = "detectors"
rationale = "x"
when = { any = [{ signal = "metric.loss", detect = "robust-z" }, { signal = "metric.loss", detect = { method = "psi", reference = 200, bins = 4, window = 100, limit = 3 } }, { signal = "metric.step", absent = "5m", over = "any" }, { signal = "metric.latency", detect = { method = "burn-rate", limit = 2 } }, { signal = "metric.tokens", detect = { method = "rate", limit = 1000, of = "total", side = "below" } }, { signal = "memory.used", detect = { method = "leak", limit = "1 TB", within = "1h", over = "10m" } }] }
actions = ["notify"]
"#;

const TEMPLATE: &str = r#"
[policy]
name = "p"
owner = "o"
[[template]]
name = "watched"
parameters = ["id", "metric", "limit", "actions"]
defaults = { limit = 6, actions = ["snapshot", "notify"] }
[[template.rule]]
id = "${id}-spike"
rationale = "3 of 5 values of ${metric} are more than ${limit} deviations away"
when = { signal = "metric.${metric}", detect = { method = "robust-z", limit = "${limit}" } }
actions = "${actions}"
[[use]]
template = "watched"
with = { id = "loss", metric = "loss" }
"#;

/// `@1` is replaced by the digest of the second file: see the target.
const INCLUDES: &str = r#"include = [{ file = "1", sha256 = "@1" }]
[policy]
name = "p"
owner = "o"
[[use]]
template = "hot"
with = { limit = "90 C" }
"#;

const COMMON: &str = r#"include = [{ file = "2", sha256 = "@2" }]
[[rule]]
id = "oom"
rationale = "x"
when = { event = "oom" }
actions = ["notify"]
"#;

const TEMPLATE_FILE: &str = r#"[[template]]
name = "hot"
parameters = ["limit"]
[[template.rule]]
id = "hot"
rationale = "x"
when = { signal = "gpu.temperature", above = "${limit}", for = "10s" }
actions = ["freeze"]
"#;

const SHORT_TEST: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"hot\"\nrationale = \"x\"
when = { signal = \"gpu.temperature\", above = \"90 C\", for = \"10s\" }\nactions = [\"freeze\"]
\0properties = [\"freeze-before-kill\"]\n[[test]]\nname = \"hot\"\ngpus = [\"GPU-0\"]\nseed = 1
[[test.input]]\nsignal = \"gpu.temperature\"\nvalue = { constant = \"95 C\", noise = \"2 C\" }\nevery = \"1s\"\nfor = \"30s\"
[[test.expect]]\nrule = \"hot\"\nactions = [\"freeze\"]\nbetween = [\"9s\", \"12s\"]\n";

const MANIFEST: &str = r#"regime = "deterministic"
image = "sha256:0000"
[code]
repository = "https://git.example/train"
commit = "6b92a44"
dirty = false
[data.c4]
version = "3.0.1"
[seeds]
torch = 42
[hyperparameters]
lr = 0.0003
betas = [0.9, 0.95]
[config]
flash_attention = true
"#;

const RECORDS: &str = r"3,812,5140900,-;NVRM: Xid (PCI:0000:c1:00): 79, pid=77, name=python3, GPU has fallen off the bus.
4,813,5140950,-;NVRM: Xid (PCI:0000:c1:00 GPU-I:05 GPU-CI:01): 43, pid=77, name=python3
3,814,5141000,-;nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 07 egress
2,815,5142000,-;mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: fe00000000800400
4,816,5143000,c;EDAC MC0: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0
6,817,5144000,-;amdgpu 0000:c1:00.0: amdgpu: GPU reset(3) failed
again
14,818,5145000,-;NVRM: Xid (PCI:0000:c1:00): 79, written by user space
";

/// A quote, the public area of a key, a signature, and answers of a TPM.
fn tpm() -> Vec<Vec<u8>> {
    let public = Public::of_point(&[4; 64]);
    let mut quoted = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18];
    put_sized(&mut quoted, &public.qualified_name());
    put_sized(&mut quoted, &[7; 32]);
    quoted.extend([0; 16]);
    quoted.push(1);
    quoted.extend([0; 8]);
    // One selection: SHA-256, PCRs 0, 7 and 10.
    quoted.extend([0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0x04, 0]);
    put_sized(&mut quoted, &[9; 32]);
    let mut signature = vec![0, 0x18, 0, 0x0b];
    put_sized(&mut signature, &[1; 32]);
    put_sized(&mut signature, &[2; 32]);
    let answer = |tag: u8, body: &[u8]| {
        let mut bytes = vec![0x80, tag];
        bytes.extend(u32::try_from(10 + body.len()).unwrap_or_default().to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    };
    let mut parameters = Vec::new();
    put_sized(&mut parameters, public.area());
    let made = [&[0x80, 0, 0, 1][..], &(parameters.len() as u32).to_be_bytes(), &parameters].concat();
    let mut parameters = Vec::new();
    put_sized(&mut parameters, &quoted);
    parameters.extend(&signature);
    let quote = [&(parameters.len() as u32).to_be_bytes()[..], &parameters].concat();
    let refused = vec![0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x21];
    vec![quoted, public.area().to_vec(), signature, answer(2, &made), answer(2, &quote), refused]
}

fn write(target: &str, inputs: &[Vec<u8>]) -> std::io::Result<()> {
    let folder = Path::new("corpus").join(target);
    fs::create_dir_all(&folder)?;
    for (n, input) in inputs.iter().enumerate() {
        fs::write(folder.join(format!("seed-{n}")), input)?;
    }
    Ok(())
}
