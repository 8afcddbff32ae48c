//! One incident as one file: exported from a real node, and verified where there is only the file and a list of keys.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, Launch, NOBODY, Node, on_node, program, wait_for};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const DENY: &str = r#"
[policy]
name = "deny-all"
owner = "tests"

[egress]
allow = []

[[rule]]
id = "out"
rationale = "nothing leaves"
when = { event = "connect", verdict = "denied" }
actions = ["freeze", "snapshot", "notify"]
"#;

const SETTINGS: &str = "[audit_log]\ncheckpoint = \"1s\"\n";

/// Another machine: a folder with the file and the list of keys, and nothing in the environment.
struct Elsewhere(tempfile::TempDir);

impl Elsewhere {
    fn new(node: &Node, file: &Path) -> Result<Elsewhere> {
        let elsewhere = Elsewhere(tempfile::tempdir()?);
        fs::copy(file, elsewhere.file())?;
        fs::write(elsewhere.0.path().join("keys"), node.ctl(["attest", "key", "show"])?.expect(0)?.out)?;
        Ok(elsewhere)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("incident.tar")
    }

    fn verify(&self, more: &[&str]) -> Result<CommandOutput> {
        let mut command = Command::new(program("failsafectl")?);
        command.env_clear().current_dir(self.0.path());
        CommandOutput::of(command.args(["incident", "verify", "incident.tar"]).args(more))
    }
}

/// Runs until it violates the policy and is frozen. Returns the incident, too.
fn violated(node: &Node, name: &str) -> Result<(integration::Started, String)> {
    let sender = program("sender")?.display().to_string();
    let command = [&sender, "--to", "127.0.0.7:9", "--how", "tcp", "--count", "1000000", "--pause-ms", "20"];
    let run = Launch::new(name, DENY).start(node, command)?;
    run.freezes()?;
    let evidence = |e: &serde_json::Value| e["kind"] == "evidence" && e["run"] == run.id();
    node.wait_for_event("the evidence", evidence)?;
    let found = node.wait_for_event("the outcome of the snapshot", |e| {
        e["run"] == run.id() && e["kind"] == "outcome" && e["body"]["action"] == "notify"
    })?;
    let incident = found["incident"].as_str().context("no incident")?.to_owned();
    Ok((run, incident))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_incident_is_proved_from_its_file_on_a_machine_that_has_only_the_key() -> Result<()> {
    on_node("incident-file", SETTINGS, |node| {
        let (_run, incident) = violated(node, "leaks")?;
        let file = node.file("incident.tar");
        let path = file.display().to_string();
        let output = node.ctl(["incident", "export", &incident, "-o", &path])?.expect(0)?;
        ensure!(output.out.contains("1 recording"), "{output:?}");
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "others may read it");
        let again = node.ctl(["incident", "export", &incident, "-o", &path])?.expect(1)?;
        ensure!(again.err.contains("exists"), "{again:?}");

        let elsewhere = Elsewhere::new(node, &file)?;
        let page = elsewhere.verify(&["--keys", "keys"])?.expect(0)?;
        let text = words(&page.out);
        for expected in [
            "incident.tar: PROVED",
            "Run leaks was frozen, because rule out of policy deny-all v1 tripped.",
            "decided again from",
            "the same as in the log",
            "factors of what the run computed with, taken after the incident began",
            "1 snapshot of the run's processes",
            "the log has no hash of it (the run lives)",
            "it is a software key",
        ] {
            ensure!(text.contains(expected), "no `{expected}` in {}", page.out);
        }
        let json = elsewhere.verify(&["--keys", "keys", "-o", "json"])?.expect(0)?.json()?;
        ensure!(json["verdict"] == "proved" && json["incident"]["incident"] == incident.as_str(), "{json:#}");
        ensure!(json["replay"]["identical"] == true && json["key_allowed"] == true, "{json:#}");
        let unchecked = elsewhere.verify(&[])?.expect(15)?;
        ensure!(unchecked.out.contains("NOTHING IS PROVED"), "{unchecked:?}");

        independently(&elsewhere.file())?;

        let bytes = fs::read(elsewhere.file())?;
        let mut changed = bytes.clone();
        changed[bytes.len() / 2] ^= 1;
        fs::write(elsewhere.file(), changed)?;
        ensure!(elsewhere.verify(&["--keys", "keys"])?.expect(7)?.out.contains("NOT VALID"), "a changed byte passes");
        fs::write(elsewhere.file(), &bytes[..bytes.len() - 512])?;
        elsewhere.verify(&["--keys", "keys"])?.expect(7)?;
        fs::write(elsewhere.file(), &bytes)?;
        // The key of another node.
        node.ctl(["attest", "key", "rotate", "--reason", "a test"])?.expect(0)?;
        let new = node.ctl(["attest", "key", "show"])?.expect(0)?.out;
        let own = fs::read_to_string(elsewhere.0.path().join("keys"))?;
        let is_other = |line: &&str| line.split(' ').next().is_some_and(|id| !own.contains(id));
        let others: String = new.lines().filter(is_other).map(|line| format!("{line}\n")).collect();
        fs::write(elsewhere.0.path().join("keys"), others)?;
        let unknown = elsewhere.verify(&["--keys", "keys"])?.expect(7)?;
        ensure!(words(&unknown.out).contains("no signature is by a known key"), "{unknown:?}");
        elsewhere.verify(&["--keys", "none"])?.expect(1)?;
        fs::remove_file(elsewhere.file())?;
        elsewhere.verify(&[])?.expect(1)?;
        node.log_is_whole()
    })
}

#[test]
fn the_file_of_an_ended_run_is_made_from_a_copy_of_the_state_folder_and_binds_the_recording() -> Result<()> {
    on_node("incident-offline", SETTINGS, |node| {
        let (mut run, incident) = violated(node, "leaks")?;
        let nobody = ["incident", "export", &incident, "-o", "/tmp/never"];
        node.ctl_as(NOBODY, nobody)?.expect(4)?;
        node.ctl(["incident", "export", "inc-000000000000-1", "-o", "/tmp/never"])?.expect(6)?;
        node.wait_for_event("the stored statement of the incident", |e| {
            e["body"]["type"] == "statement" && e["body"]["at"] == "incident" && e["run"] == run.id()
        })?;
        node.ctl(["kill", "leaks", "--reason", "enough"])?.expect(0)?;
        run.ends()?;
        wait_for("it has ended", || Ok(node.run("leaks")?["state"] == "ended"))?;
        let online = node.file("online.tar");
        node.ctl(["incident", "export", &incident, "-o", &online.display().to_string()])?.expect(0)?;
        let elsewhere = Elsewhere::new(node, &online)?;
        let page = elsewhere.verify(&["--keys", "keys"])?.expect(0)?.out;
        ensure!(words(&page).contains("recordings/0000.fsrec: the log has its hash"), "{page}");
        ensure!(words(&page).contains("stored by the daemon at the incident (entry "), "{page}");

        node.stop()?;
        let copy = tempfile::tempdir()?;
        let copied =
            CommandOutput::of(Command::new("cp").arg("-r").arg(node.state_dir()).arg(copy.path().join("state")))?;
        copied.expect(0)?;
        let offline = copy.path().join("offline.tar");
        let mut command = Command::new(program("failsafectl")?);
        command.env_clear().arg("--state-dir").arg(copy.path().join("state"));
        command.args(["incident", "export", &incident, "--offline", "-o"]).arg(&offline);
        let output = CommandOutput::of(&mut command)?.expect(0)?;
        ensure!(!output.out.contains("missing"), "{output:?}");
        fs::copy(&offline, elsewhere.file())?;
        let page = elsewhere.verify(&["--keys", "keys"])?.expect(0)?.out;
        ensure!(words(&page).contains("recordings/0000.fsrec: the log has its hash"), "{page}");
        ensure!(words(&page).contains("stored by the daemon at the incident (entry "), "{page}");
        independently(&elsewhere.file())?;
        // The daemon is asked, unless the caller says otherwise.
        let mut command = node.ctl_command(["incident", "export", &incident, "-o", "/tmp/never"]);
        ensure!(CommandOutput::of(&mut command)?.expect(13)?.err.contains("--offline"), "no advice");
        node.log_is_whole()
    })
}

#[test]
fn an_incident_that_two_daemons_judged_has_the_recordings_of_both() -> Result<()> {
    on_node("incident-restart", SETTINGS, |node| {
        let (mut run, incident) = violated(node, "leaks")?;
        node.stop()?;
        node.restart()?;
        node.ctl(["kill", "leaks", "--reason", "enough"])?.expect(0)?;
        run.ends()?;
        wait_for("it has ended", || Ok(node.run("leaks")?["state"] == "ended"))?;
        let file = node.file("incident.tar");
        let path = file.display().to_string();
        let output = node.ctl(["incident", "export", &incident, "-o", &path])?.expect(0)?;
        ensure!(output.out.contains("2 recordings"), "{output:?}");
        let page = Elsewhere::new(node, &file)?.verify(&["--keys", "keys"])?.expect(0)?.out;
        let expected = "recordings/0000.fsrec, recordings/0001.fsrec: the log has the hash of each";
        ensure!(words(&page).contains(expected), "{page}");
        independently(&file)
    })
}

/// Python's standard library reads the archive, and computes its digests, the inclusion proofs and the policy's digest.
fn independently(file: &Path) -> Result<()> {
    let python = "/usr/bin/python3";
    if !Path::new(python).exists() {
        integration::skip("/usr/bin/python3 is not installed");
        return Ok(());
    }
    let program = r#"
import base64, hashlib, json, sys, tarfile

def sha(data):
    return hashlib.sha256(data).digest()

archive = tarfile.open(sys.argv[1], "r:")
members = archive.getmembers()
assert all(m.isreg() and m.mode == 0o600 and m.uid == 0 and m.mtime == 0 for m in members)
parts = {m.name: archive.extractfile(m).read() for m in members}
assert len(parts) == len(members)
sums = [line.split("  ") for line in parts["SHA256SUMS"].decode().splitlines()]
assert {name for _, name in sums} == set(parts) - {"SHA256SUMS"}
assert all(sha(parts[name]).hex() == digest for digest, name in sums)
listed = {part["name"]: part["sha256"] for part in json.loads(parts["manifest.json"])["parts"]}
assert listed == {name: digest for digest, name in sums if name != "manifest.json"}

origin, size, root = parts["checkpoint"].decode().split("\n")[:3]
size, root = int(size), base64.b64decode(root)

def included(index, size, leaf, proof, root):
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        assert sn != 0
        if fn & 1 or fn == sn:
            r = sha(b"\x01" + p + r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = sha(b"\x01" + r + p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root

entries = sorted(name for name in parts if name.startswith("entries/"))
policies = set()
for name in entries:
    number = name.split("/")[1].split(".")[0]
    text, note = parts[f"proofs/{number}.tlog-proof"].decode().split("\n\n", 1)
    assert note.encode() == parts["checkpoint"]
    head, index, *hashes = text.split("\n")
    assert head == "c2sp.org/tlog-proof@v1"
    index = int(index.removeprefix("index "))
    leaf = sha(b"\x00" + parts[name])
    proof = [base64.b64decode(h) for h in hashes]
    assert included(index, size, leaf, proof, root), name
    assert not included(index, size, sha(b"\x00" + parts[name] + b" "), proof, root)
    entry = json.loads(parts[name])
    if entry["kind"] == "decision":
        policies.add(entry["body"]["decision"]["policy"])
assert policies == {"sha256:" + sha(b"failsafe-policy-v2\n" + parts["policy.json"]).hex()}
print(len(entries))
"#;
    let output = CommandOutput::of(Command::new(python).args(["-I", "-c", program]).arg(file))?.expect(0)?;
    ensure!(output.out.trim().parse::<u32>()? >= 5, "{output:?}");
    Ok(())
}
