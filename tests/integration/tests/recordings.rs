//! A recording in the state folder that was changed, cut or swapped: `replay` compares it with the audit log.

use anyhow::{Context, Result, ensure};
use failsafe_core::replay::Recorded;
use failsafe_journal::{Recorder, RecordingReader};
use integration::{Launch, on_node, program, wait_for, wait_for_some};
use std::fs;

const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"tests\"\n";

/// The recording in the state folder is made anew without the input that caused the freeze and without the decision: every frame
/// of it is in order, and it replays to itself.
#[test]
fn a_recording_without_a_decision_and_its_cause_does_not_pass_for_the_runs() -> Result<()> {
    on_node("swapped", "", |node| {
        let mut runs = Vec::new();
        for name in ["victim", "other"] {
            let mut run = Launch::new(name, POLICY).start(node, ["sleep", "600"])?;
            node.ctl(["freeze", name, "--reason", "to be hidden"])?.expect(0)?;
            node.ctl(["kill", name, "--reason", "enough"])?.expect(0)?;
            run.ends()?;
            wait_for("it has ended", || Ok(node.run(name)?["state"] == "ended"))?;
            node.ctl(["replay", name])?.expect(0)?;
            let path = node.state_dir().join("runs").join(run.id()).join("0000.fsrec");
            runs.push((path.clone(), fs::read(path)?));
        }
        let [(victim, whole), (_, other)] = runs.as_slice() else { anyhow::bail!("two runs") };
        let problem = |what: &str, expected: &str| -> Result<()> {
            let asked = node.ctl(["replay", "victim"])?;
            ensure!(asked.code == 7 && !asked.out.contains("identical"), "{what}: {asked:?}");
            let file = node.ctl(["replay", &victim.display().to_string()])?;
            ensure!(file.code == 7 || what == "another run's", "{what}: {file:?}");
            let all = format!("{}{}", asked.out, asked.err);
            ensure!(all.contains(expected), "{what}: {all}");
            Ok(())
        };
        fs::write(victim, other)?;
        problem("another run's", "is one of run")?;

        fs::write(victim, whole)?;
        let mut reader = RecordingReader::open(victim)?;
        let header = reader.header().clone();
        let frames = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
        let decided: Vec<bool> = frames.iter().map(|f| matches!(f.decode(), Ok(Recorded::Decision(_)))).collect();
        let first = decided.iter().position(|decided| *decided).context("a decision")?;
        let rewrite = |keep: &dyn Fn(usize) -> bool| -> Result<()> {
            fs::remove_file(victim)?;
            let mut recorder = Recorder::create(victim, &header, u64::MAX)?;
            for (_, frame) in frames.iter().enumerate().filter(|(n, _)| keep(*n)) {
                recorder.record(frame.kind, &frame.decode::<Recorded>()?)?;
            }
            recorder.finish()?;
            Ok(())
        };
        rewrite(&|n| n < first - 1)?;
        problem("without all decisions", "is missing in the recording")?;
        fs::write(victim, whole)?;
        node.ctl(["replay", "victim"])?.expect(0)?;
        let length = usize::try_from(frames[first].offset)?;
        fs::write(victim, &whole[..length])?;
        problem("cut at the border of a frame", "cut off")?;
        let next = usize::try_from(frames[first + 1].offset)?;
        fs::write(victim, [&whole[..length], &whole[next..]].concat())?;
        problem("without one frame", "does not continue the frame before it")?;
        node.log_is_whole()
    })
}

const EXECS: &str = "[policy]\nname = \"p\"\nowner = \"tests\"\n[[rule]]\nid = \"sleeps\"\nrationale = \"x\"\nmode = \"observe\"\n\
     when = { event = \"exec\", path = \"*sleep\" }\nactions = [\"notify\"]\n";

#[test]
fn a_secret_in_a_command_line_reaches_neither_the_log_nor_the_recording() -> Result<()> {
    const SECRET: &[u8] = b"hunter2hunter2";
    on_node("secret", "", |node| {
        let line = "sleep 600 & exec env TOKEN=hunter2hunter2 sh -c 'sleep 600; :' --password hunter2hunter2";
        let run = Launch::new("secret", EXECS).start(node, ["sh", "-c", line])?;
        let decided = |event: &serde_json::Value| event["kind"] == "decision" && event["run"] == run.id();
        node.wait_for_event("the rule trips", decided)?;
        node.ctl(["freeze", "secret", "--reason", "a look at its processes"])?.expect(0)?;
        node.wait_for_event("its processes", |event| event["kind"] == "evidence")?;
        node.ctl(["replay", "secret"])?.expect(0)?;
        let log = fs::read(node.state_dir().join("audit/audit.log"))?;
        let recording = fs::read(node.state_dir().join("runs").join(run.id()).join("0000.fsrec"))?;
        for (what, bytes) in [("log", &log), ("recording", &recording)] {
            ensure!(!bytes.windows(SECRET.len()).any(|found| found == SECRET), "the {what} has the secret");
        }
        let shown = b"--password [redacted]";
        ensure!(log.windows(shown.len()).any(|found| found == shown), "the log has no redacted command line");
        node.log_is_whole()
    })
}

#[test]
fn what_ended_runs_leave_is_bounded() -> Result<()> {
    on_node("bounded", "[recordings]\nruns_per_user = 2\nroot_mib = 1\nper_user_mib = 1\n", |node| {
        let live = Launch::new("live", POLICY).start(node, ["sleep", "600"])?;
        let folder = |id: &str| node.state_dir().join("runs").join(id);
        let mut ended = Vec::new();
        for n in 0..5 {
            let mut run = Launch::new(&format!("ended-{n}"), POLICY).start(node, ["sleep", "600"])?;
            node.ctl(["kill", run.id(), "--reason", "enough"])?.expect(0)?;
            run.ends()?;
            ended.push(run.id().to_owned());
        }
        wait_for("the oldest are removed", || {
            Ok(ended.iter().filter(|id| folder(id).exists()).count() == 2 && folder(&ended[4]).exists())
        })?;
        let named = node.wait_for_event("an entry names them", |event| event["body"]["type"] == "runs-removed")?;
        ensure!(
            named["body"]["runs"].as_array().is_some_and(|runs| runs.iter().any(|run| run == ended[0].as_str())),
            "{named}"
        );
        ensure!(folder(live.id()).join("0000.fsrec").exists(), "a live run lost its recording");
        node.ctl(["replay", "live"])?.expect(0)?;
        node.ctl(["replay", &ended[4]])?.expect(0)?;
        node.log_is_whole()
    })
}

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
actions = ["freeze", "notify"]
"#;

#[test]
fn replay_reads_the_recordings_of_all_daemons_of_a_run_and_names_one_that_is_missing() -> Result<()> {
    on_node("restarted", "", |node| {
        let sender = program("sender")?.display().to_string();
        let command = [&sender, "--to", "127.0.0.7:9", "--how", "tcp", "--count", "1000000", "--pause-ms", "20"];
        let run = Launch::new("twice", DENY).start(node, command)?;
        run.freezes()?;
        let of_rule = |list: &serde_json::Value| {
            let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter(|decision| decision["cause"]["Rule"]["rule"] == "out").count()
        };
        // A replay also writes the recording out, so that the SIGKILL does not cut it.
        wait_for("the first decision is recorded", || Ok(of_rule(&node.json(["replay", "twice"])?["recorded"]) == 1))?;
        node.kill9()?;
        node.restart()?;
        wait_for("the run is adopted", || Ok(node.run("twice")?["state"] == "frozen"))?;
        let thawed = node.ctl(["thaw", "twice", "--reason", "once more"])?;
        ensure!(thawed.code == 0 || (thawed.code == 3 && thawed.out.contains("later decision")), "{thawed:?}");
        let replayed = wait_for_some("both decisions are recorded", || {
            let replayed = node.ctl(["replay", "twice", "--json"])?;
            Ok((of_rule(&replayed.json()?["recorded"]) == 2).then_some(replayed))
        })?;
        ensure!(replayed.code == 0, "{replayed:?}");
        let json = replayed.json()?;
        ensure!(json["identical"] == true && of_rule(&json["replayed"]) == 2, "{json}");
        let decided = || -> Result<usize> {
            Ok(node.events()?.iter().filter(|e| e["kind"] == "decision" && e["run"] == run.id()).count())
        };
        wait_for("the log is compared with both recordings", || {
            Ok(node.json(["replay", "twice"])?["audit_log"]["same_decisions"] == decided()?)
        })?;

        let archive = node.file("twice.fsrec").display().to_string();
        let exported = node.ctl(["export", "twice", "--output", &archive])?.expect(0)?;
        ensure!(exported.out.contains("2 of 2 recordings"), "{exported:?}");
        let away = node.ctl(["replay", &archive])?.expect(0)?;
        ensure!(away.out.ends_with("\nidentical\n") && away.out.contains("0001.fsrec"), "{away:?}");

        // The killed daemon wrote no hash: a crash can lose such a file too.
        let folder = node.state_dir().join("runs").join(run.id());
        let first = fs::read(folder.join("0000.fsrec"))?;
        fs::remove_file(folder.join("0000.fsrec"))?;
        let missing = node.ctl(["replay", "twice"])?.expect(3)?;
        ensure!(missing.out.contains("0000.fsrec  NOT READ: there is no such file"), "{missing:?}");
        ensure!(missing.out.contains("  0000.fsrec: decision 1 because of rule out"), "{missing:?}");
        ensure!(!missing.out.contains("\nidentical\n"), "{missing:?}");
        let exported = node.ctl(["export", "twice", "--output", &archive, "--force"])?.expect(3)?;
        ensure!(exported.err.contains("0000.fsrec of the run cannot be read"), "{exported:?}");
        node.ctl(["replay", &archive])?.expect(3)?;
        fs::write(folder.join("0000.fsrec"), first)?;

        // The second daemon closes its recording, and the log has its hash.
        node.stop()?;
        fs::remove_file(folder.join("0001.fsrec"))?;
        node.restart()?;
        wait_for("the run is adopted again", || Ok(node.run("twice")?["state"] == "frozen"))?;
        let removed = node.ctl(["replay", "twice"])?.expect(7)?;
        ensure!(removed.out.contains("0001.fsrec is missing, but the audit log has its hash"), "{removed:?}");
        node.log_is_whole()
    })
}
