//! Manifests and checkpoints: what an owner claims is in the log, in statements, and in their comparison.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, on_node, program, sentinel, wait_for};
use serde_json::Value;
use std::{fs, path::PathBuf};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const MANIFEST: &str = "regime = \"deterministic\"\n[code]\ncommit = \"6b92a44\"\n[seeds]\ntorch = 42\n";

fn manifest(node: &Node, name: &str, text: &str) -> Result<PathBuf> {
    let file = node.file(name);
    fs::write(&file, text)?;
    Ok(file)
}

fn statement(node: &Node, run: &str) -> Result<PathBuf> {
    let file = node.file(&format!("{run}.json"));
    node.ctl(["attest", "run", run, "-o", &file.display().to_string()])?.expect(0)?;
    Ok(file)
}

#[test]
fn runs_that_claim_other_seeds_differ_in_their_seed_and_the_regime_is_declared() -> Result<()> {
    on_node("manifest", "", |node| {
        let (one, two) = (
            manifest(node, "m1.toml", MANIFEST)?,
            manifest(node, "m2.toml", &MANIFEST.replace("torch = 42", "torch = 43"))?,
        );
        let _one = Launch::new("one", PLAIN).manifest(one.clone()).start(node, ["sleep", "60"])?;
        let _two = Launch::new("two", PLAIN).manifest(two).start(node, ["sleep", "60"])?;
        let _none = Launch::new("none", PLAIN).start(node, ["sleep", "60"])?;
        let files = ["one", "two", "none"].map(|run| statement(node, run));
        let [first, second, third] = files;
        let (first, second, third) = (first?, second?, third?);
        let diff = |a: &PathBuf, b: &PathBuf| -> Result<(i32, Value)> {
            let output =
                node.ctl(["attest", "diff", "-o", "json", &a.display().to_string(), &b.display().to_string()])?;
            Ok((output.code, output.json().with_context(|| output.err.clone())?))
        };
        let (code, answer) = diff(&first, &second)?;
        ensure!(code == 21 && answer["differences"][0]["path"] == "run/manifest/seeds/torch", "{answer:#}");
        ensure!(answer["regime"] == "deterministic" && answer["regime_declared"] == true, "{answer:#}");
        let (code, answer) = diff(&first, &third)?;
        ensure!(code == 22, "nothing is claimed about the other run, so it is not called equal: {answer:#}");

        // Claims are replaced, not merged.
        node.ctl(["manifest", "set", "two", &one.display().to_string()])?.expect(0)?;
        let (code, answer) = diff(&first, &statement_again(node, "two")?)?;
        ensure!(code == 15 && answer["verdict"] == "result-equal", "{answer:#}");
        let shown = node.json(["manifest", "show", "two"])?;
        ensure!(shown["manifest"]["seeds"]["torch"] == 42 && shown["checkpoints"] == serde_json::json!([]), "{shown}");
        let shown = node.json(["manifest", "show", "none"])?;
        ensure!(shown["manifest"].is_null() && shown["set_ns"].is_null(), "{shown}");
        node.log_is_whole()
    })
}

fn statement_again(node: &Node, run: &str) -> Result<PathBuf> {
    fs::remove_file(node.file(&format!("{run}.json")))?;
    statement(node, run)
}

#[test]
fn a_run_announces_its_checkpoints_and_they_stay_when_it_has_ended() -> Result<()> {
    on_node("checkpoint", "", |node| {
        let weights = manifest(node, "weights", "0123456789")?;
        let (path, ctl) = (weights.display().to_string(), node.ctl_command([""]).get_program().to_owned());
        let script = format!(
            "'{}' checkpoint '{path}' --step 7 --good && '{0}' checkpoint '{path}' --step 8; echo done; sleep 60",
            ctl.display()
        );
        let run = Launch::new("trainer", PLAIN).start(node, ["sh", "-c", &script])?;
        wait_for("the run announced its checkpoints", || Ok(run.output().contains("done")))?;
        let announced = |shown: &Value| -> Result<()> {
            let all = shown["checkpoints"].as_array().context("no list")?;
            ensure!(all.len() == 2 && all[0]["step"] == 7 && all[0]["good"] == true, "{shown:#} {}", run.errors());
            ensure!(all[1]["step"] == 8 && all[1]["good"] == false && all[1]["bytes"] == 10, "{shown:#}");
            let digest = "sha256:84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
            ensure!(all[0]["digest"] == digest, "{shown:#}");
            Ok(())
        };
        announced(&node.json(["manifest", "show", "trainer"])?)?;
        // Outside a run it has to be named; root names another user's run, who then is on record.
        ensure!(node.ctl(["checkpoint", &path])?.expect(2)?.err.contains("in no run"));
        node.ctl(["kill", "trainer", "--reason", "over"])?.expect(0)?;
        wait_for("it ended", || Ok(node.run("trainer")?["state"] == "ended"))?;
        let refused = node.ctl(["checkpoint", &path, "--run", "trainer"])?;
        ensure!(refused.code != 0 && refused.err.contains("has ended"), "{refused:?}");
        announced(&node.json(["manifest", "show", "trainer"])?)?;
        let entries = node.events_of("trainer")?;
        let kinds = entries.iter().filter(|entry| entry["kind"] == "manifest").count();
        ensure!(kinds == 2, "{entries:?}");
        node.log_is_whole()
    })
}

#[test]
fn a_wrong_manifest_starts_nothing_and_secrets_and_strangers_are_kept_out() -> Result<()> {
    on_node("manifest-wrong", "", |node| {
        let policy = node.policy("plain", PLAIN)?;
        let (policy, marker) = (policy.display().to_string(), node.file("marker"));
        let wrong = manifest(node, "wrong.toml", "[code]\ncomit = \"x\"\n")?.display().to_string();
        let marked = marker.display().to_string();
        let args =
            ["run", "--no-watch", "-p", &policy, "--user", "nobody", "--manifest", &wrong, "--", "touch", &marked];
        let output = node.ctl(args)?.expect(2)?;
        ensure!(output.err.contains("wrong.toml:2:1") && !marker.exists(), "{output:?}");
        ensure!(node.json(["list", "--all"])?.as_array().is_some_and(Vec::is_empty), "a run was started");

        let secret = manifest(node, "secret.toml", "[config]\nwandb_api_key = \"very-hidden\"\n")?;
        let _roots = Launch::new("roots", PLAIN).user("root").manifest(secret.clone()).start(node, ["sleep", "60"])?;
        let shown = node.ctl(["manifest", "show", "roots"])?.expect(0)?.out;
        ensure!(shown.contains("[redacted]") && shown.contains("not measured"), "{shown}");
        let log = fs::read(node.state_dir().join("audit/audit.log"))?;
        ensure!(!String::from_utf8_lossy(&log).contains("very-hidden"), "the log has the secret");

        let secret = secret.display().to_string();
        node.ctl_as(NOBODY, ["manifest", "set", "roots", &secret])?.expect(6)?;
        node.ctl_as(NOBODY, ["manifest", "show", "roots"])?.expect(6)?;
        node.ctl_as(NOBODY, ["checkpoint", "/etc/hostname", "--run", "roots"])?.expect(6)?;
        node.log_is_whole()
    })
}

const BOUNDED: &str = r#"
[policy]
name = "bounded"
owner = "training@example.org"

[[rule]]
id = "above-the-target"
rationale = "the manifest states what the loss must not exceed"
when = { signal = "metric.loss", above = { manifest = "hyperparameters.most" } }
actions = ["freeze", "snapshot", "notify"]
"#;

#[test]
fn a_number_of_the_manifest_bounds_a_metric_also_after_a_restart_and_a_later_one_does_not_move_it() -> Result<()> {
    on_node("bounded", "", |node| {
        let gate = sentinel(node, "gate")?;
        let ctl = program("failsafectl")?.display().to_string();
        let script = format!(
            "until [ -s {} ]; do sleep 0.1; done; for v in 3.25 4.5; do {ctl} report loss $v || exit 1; done; sleep 600",
            gate.display()
        );
        let first = manifest(node, "first.toml", "[hyperparameters]\nmost = 3.5\n")?;
        let later = manifest(node, "later.toml", "[hyperparameters]\nmost = 1000\n")?;
        let launch = Launch::new("bounded", BOUNDED).env("FAILSAFE_METRICS_SOCKET", node.metrics_socket());
        let run = launch.env("RANK", "0").manifest(first).start(node, ["sh", "-c", &script])?;
        node.ctl(["manifest", "set", "bounded", &later.display().to_string()])?.expect(0)?;
        // The next daemon knows the numbers by the log.
        node.kill9()?;
        node.restart()?;
        fs::write(&gate, "go")?;
        run.freezes()?;
        let decision = node
            .wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "above-the-target")?;
        ensure!(decision["body"]["decision"]["values"][0]["value"]["Claimed"]["value"] == "4.5", "{decision}");
        let page = node.ctl(["explain", "bounded", "--full"])?.expect(0)?.out;
        ensure!(page.contains("above hyperparameters.most of the run's manifest: bound 3.5000"), "{page}");
        ensure!(node.ctl(["replay", "bounded"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}
