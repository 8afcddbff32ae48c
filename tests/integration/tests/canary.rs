//! Canaries on the real kernel: a candidate is in force in a share of the runs of a named policy, until its criteria decide.

use anyhow::{Context, Result, ensure};
use integration::{
    Launch, NOBODY, Node, TestCgroup,
    gateway::{Gateway, accepts, cgroup, has},
    on_node, wait_for, wait_for_some,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tempfile::TempDir;

const OPEN: &str = "[policy]\nname = \"open\"\nowner = \"o\"\n";
const NEXT: &str = "[policy]\nname = \"next\"\nversion = 2\nowner = \"o\"\n";
/// Freezes a run that executes a program.
const STRICT: &str = "[policy]\nname = \"strict\"\nversion = 2\nowner = \"o\"\n\n[[rule]]\nid = \"executes\"\nrationale = \"x\"\n\
                      when = { event = \"exec\" }\nactions = [\"freeze\", \"notify\"]\n";
/// Enough draws of one half that all of them alike is out of the question: 2^-39.
const DRAWS: u32 = 40;

fn put(policies: &Path, name: &str, text: &str) -> Result<()> {
    // As an editor does it: whoever reads it meanwhile sees the old one or the new one.
    let (part, path) = (policies.join(format!(".{name}.part")), policies.join(format!("{name}.toml")));
    fs::write(&part, text)?;
    fs::set_permissions(&part, Permissions::from_mode(0o644))?;
    Ok(fs::rename(part, path)?)
}

/// A folder of policies with `trainer`, and the setting that names it.
fn policies() -> Result<(TempDir, String)> {
    let policies = tempfile::Builder::new().prefix("failsafe-it-policies-").tempdir()?;
    fs::set_permissions(policies.path(), Permissions::from_mode(0o755))?;
    put(policies.path(), "trainer", OPEN)?;
    let setting = format!("policy_dir = {:?}\n", policies.path().display().to_string());
    Ok((policies, setting))
}

/// Begins a canary of `trainer` on half of its runs.
fn start(node: &Node, candidate: &str, more: &[&str]) -> Result<Value> {
    let file = node.policy("candidate", candidate)?;
    let file = file.to_string_lossy();
    let first = ["policy", "canary", "start", "trainer", "--policy", &*file, "--share", "50%", "--reason", "try"];
    node.ctl([&first, more, &["-o", "json"]].concat())?.expect(0)?.json()
}

fn show(node: &Node) -> Result<Value> {
    node.json(["policy", "canary", "show", "trainer"])
}

/// Runs a short command under `trainer`. The name of the policy that it got.
fn run_once(node: &Node, name: &str) -> Result<String> {
    let output = node.ctl(["run", "--policy", "trainer", "--name", name, "--user", "nobody", "--", "true"])?;
    output.expect(0)?;
    let run = node.run(name)?;
    Ok(run["policy_name"].as_str().context("no policy")?.to_owned())
}

fn is_canary(entry: &Value, stage: &str) -> bool {
    entry["kind"] == "policy" && entry["body"]["type"] == "canary" && entry["body"]["stage"] == stage
}

#[test]
fn a_candidate_that_freezes_runs_is_withdrawn_at_once_and_its_runs_keep_it() -> Result<()> {
    let (_policies, setting) = policies()?;
    on_node("canarywithdraw", &setting, |node| {
        let begun = start(node, STRICT, &["--withdraw-if", "contained > 0"])?;
        ensure!(begun["stage"] == "running" && begun["candidate_name"] == "strict v2", "{begun}");
        let mut runs = Vec::new();
        for n in 0..DRAWS {
            let name = format!("job-{n}");
            let run = Launch::named(&name, "trainer").start(node, ["sh", "-c", "while :; do sleep 0.1; done"])?;
            let shown = node.run(run.id())?;
            let label = shown["labels"]["failsafe.canary"].as_str().context("no label")?.to_owned();
            let drawn = shown["policy_name"] == "strict";
            ensure!(label.ends_with(if drawn { " candidate" } else { " control" }), "{shown}");
            runs.push(run);
            if drawn {
                break;
            }
        }
        wait_for("the candidate is withdrawn", || Ok(show(node)?["stage"] == "withdrawn"))?;
        let last = runs.last().context("no run")?;
        let shown = node.run(last.id())?;
        ensure!(shown["policy_name"] == "strict" && shown["state"] == "frozen", "{shown}");
        let entry = node.wait_for_event("the withdrawal", |e| is_canary(e, "withdrawn"))?;
        ensure!(entry["body"]["reason"] == "contained > 0 (contained = 1)", "{entry}");
        ensure!(entry["body"]["actor"]["kind"] == "daemon" || entry["body"]["actor"] == "daemon", "{entry}");
        ensure!(node.events()?.iter().any(|e| is_canary(e, "running")));
        let one = show(node)?;
        ensure!(one["candidate"]["runs"] == 1 && one["control"]["runs"] == runs.len() - 1, "{one}");
        drop(runs);
        node.kill9()?;
        node.restart()?;
        ensure!(show(node)?["stage"] == "withdrawn", "it is decided for the next daemon as well");
        for n in 0..6 {
            ensure!(run_once(node, &format!("later-{n}"))? == "open");
        }
        let refused = node.ctl(["policy", "canary", "promote", "trainer", "--reason", "x"])?;
        ensure!(refused.code != 0 && refused.err.contains("withdrawn"), "{}", refused.err);
        Ok(())
    })
}

#[test]
fn monitoring_shows_stage_runs_and_decisions_of_a_canary() -> Result<()> {
    let Some(cgroup) = cgroup("gw-canary") else { return Ok(()) };
    let (_policies, setting) = policies()?;
    on_node("canarymetrics", &(setting + &accepts(&cgroup)), |node| {
        start(node, STRICT, &["--withdraw-if", "contained > 1000", "--runs-at-least", "1", "--for", "1s"])?;
        let (mut runs, mut candidates) = (Vec::new(), 0);
        for n in 0..DRAWS {
            let name = format!("job-{n}");
            runs.push(Launch::named(&name, "trainer").start(node, ["sh", "-c", "while :; do sleep 0.1; done"])?);
            candidates += usize::from(node.run(&name)?["policy_name"] == "strict");
            // The last one has the candidate, and there is one without.
            if candidates > 0 && runs.len() > candidates {
                break;
            }
        }
        ensure!(candidates > 0 && runs.len() > candidates, "all of {DRAWS} draws were alike");
        let mut gateway = Gateway::start(node, cgroup.path(), "[metrics]\naddress = \"127.0.0.1:0\"\n")?;
        let mut shows = |lines: &[String]| {
            let mut text = String::new();
            wait_for("the metrics of the canary", || {
                text = gateway.metrics()?;
                Ok(lines.iter().all(|line| has(&text, line)))
            })
            .with_context(|| format!("{lines:?} in {text}"))?;
            Ok::<_, anyhow::Error>(text)
        };
        let stage = |stage: &str| format!("failsafed_canary_stage{{policy=\"trainer\",stage=\"{stage}\"}} 1");
        let of = |name: &str, side: &str, more: &str, count: usize| {
            format!("failsafed_canary_{name}{{policy=\"trainer\",side=\"{side}\"{more}}} {count}")
        };
        let text = shows(&[
            stage("running"),
            of("runs", "candidate", ",state=\"live\"", candidates),
            of("runs", "control", ",state=\"live\"", runs.len() - candidates),
            of("contained_runs", "candidate", "", candidates),
            of("contained_runs", "control", "", 0),
            of("interventions_total", "control", "", 0),
            "failsafed_canary_waits{policy=\"trainer\"} 0".to_owned(),
        ])?;
        // A run may be frozen once more, for what it did before it was frozen.
        let decided = "failsafed_canary_interventions_total{policy=\"trainer\",side=\"candidate\"} ";
        let decided: usize = text.lines().find_map(|line| line.strip_prefix(decided)).context("no count")?.parse()?;
        ensure!(decided >= candidates, "{text}");
        // It has no criterion of a promotion: with its runs it waits for a command.
        let all = runs.len();
        for run in &runs {
            node.ctl(["kill", run.name(), "--reason", "it is over"])?.expect(0)?;
        }
        shows(&[
            of("runs", "candidate", ",state=\"ended\"", candidates),
            of("runs", "control", ",state=\"ended\"", all - candidates),
            "failsafed_canary_waits{policy=\"trainer\"} 1".to_owned(),
        ])?;
        node.ctl(["policy", "canary", "withdraw", "trainer", "--reason", "seen"])?.expect(0)?;
        shows(&[stage("withdrawn"), "failsafed_canary_waits{policy=\"trainer\"} 0".to_owned()])?;
        Ok(())
    })
}

#[test]
fn a_candidate_is_promoted_when_its_criteria_held_and_its_file_ends_the_canary() -> Result<()> {
    let (policies, setting) = policies()?;
    on_node("canarypromote", &setting, |node| {
        start(node, NEXT, &["--promote-if", "excess <= 0", "--for", "1s", "--runs-at-least", "2"])?;
        let twice = node
            .ctl(["policy", "canary", "start", "trainer", "--policy", "trainer", "--share", "5%", "--reason", "x"])?;
        ensure!(twice.code != 0, "{}", twice.out);
        let drawn: Vec<String> = (0..DRAWS).map(|n| run_once(node, &format!("job-{n}"))).collect::<Result<_>>()?;
        ensure!(drawn.iter().filter(|policy| *policy == "next").count() >= 2, "{drawn:?}");
        wait_for("it is promoted", || Ok(show(node)?["stage"] == "promoted"))?;
        let entry = node.wait_for_event("the promotion", |e| is_canary(e, "promoted"))?;
        ensure!(
            entry["body"]["reason"].as_str().is_some_and(|why| why.starts_with("excess <= 0 (excess = ")),
            "{entry}"
        );
        for n in 0..6 {
            ensure!(run_once(node, &format!("all-{n}"))? == "next");
        }
        node.kill9()?;
        node.restart()?;
        ensure!(run_once(node, "restarted")? == "next");

        put(policies.path(), "trainer", NEXT)?;
        wait_for("the canary is over", || Ok(show(node)?["stage"] == "over"))?;
        ensure!(run_once(node, "file")? == "next");
        let run = node.run("file")?;
        ensure!(run["labels"]["failsafe.canary"].is_null(), "{run}");
        Ok(())
    })
}

#[test]
fn a_run_that_is_started_again_is_drawn_alike_and_an_unreadable_canary_gives_nobody_the_candidate() -> Result<()> {
    let (_policies, setting) = policies()?;
    on_node("canaryagain", &setting, |node| {
        start(node, NEXT, &[])?;
        let names: Vec<String> = (0..DRAWS).map(|n| format!("job-{n}")).collect();
        let draw = |node: &Node| names.iter().map(|name| run_once(node, name)).collect::<Result<Vec<String>>>();
        let first = draw(node)?;
        ensure!(first.iter().collect::<BTreeSet<_>>().len() == 2, "{first:?}");
        node.kill9()?;
        node.restart()?;
        ensure!(draw(node)? == first, "a run that is started again gets the same policy");
        let other = node.ctl_as(NOBODY, ["policy", "canary", "list"])?;
        ensure!(other.code == 4, "{}", other.err);
        let refused = node.ctl(["policy", "canary", "list", "--host", "elsewhere"])?;
        ensure!(refused.code == 2 && refused.err.contains("local callers only"), "{}", refused.err);

        node.stop()?;
        fs::write(node.state_dir().join("canaries/trainer.state.json"), "{")?;
        node.restart()?;
        let list = node.ctl(["policy", "canary", "list"])?.expect(3)?.out;
        ensure!(list.contains("trainer.state.json"), "{list}");
        node.wait_for_event("the gap", |e| e["kind"] == "gap" && e.to_string().contains("trainer.state.json"))?;
        for name in names.iter().take(6) {
            ensure!(run_once(node, name)? == "open");
        }
        start(node, NEXT, &[])?;
        ensure!(node.ctl(["policy", "canary", "list"])?.expect(0)?.out.contains("running"));
        Ok(())
    })
}

/// Makes cgroups of jobs, and waits until each is a run. The names of their policies.
fn jobs(node: &Node, site: &TestCgroup, numbers: std::ops::Range<u32>) -> Result<BTreeMap<String, String>> {
    let paths: Vec<_> = numbers.map(|n| site.path().join(format!("jobs/job-{n}"))).collect();
    for path in &paths {
        fs::create_dir_all(path)?;
    }
    let names: Vec<String> =
        paths.iter().map(|path| Ok(path.strip_prefix(node.mount())?.display().to_string())).collect::<Result<_>>()?;
    wait_for_some("each job is a run", || {
        let all = node.json(["list"])?;
        let all = all.as_array().context("no list")?;
        let policy = |name: &String| {
            let run = all.iter().find(|run| run["cgroup"] == name.as_str())?;
            Some((name.clone(), run["policy_name"].as_str()?.to_owned()))
        };
        Ok(names.iter().map(policy).collect::<Option<BTreeMap<_, _>>>())
    })
}

#[test]
fn a_share_of_the_discovered_runs_gets_the_candidate_until_it_is_withdrawn() -> Result<()> {
    let ((_policies, setting), site) = (policies()?, TestCgroup::new("canarysite")?);
    let root = site.path().file_name().unwrap_or_default().display().to_string();
    let settings = format!(
        "{setting}\n[discovery]\nroot = {root:?}\nrescan_s = 1\n\n[[discover]]\nname = \"jobs\"\n\
         match = \"jobs/job-{{job:number}}\"\npolicy = \"trainer\"\n"
    );
    on_node("canarydisc", &settings, |node| {
        let before = jobs(node, &site, 0..4)?;
        start(node, NEXT, &[])?;
        let drawn = jobs(node, &site, 100..100 + DRAWS)?;
        ensure!(drawn.values().collect::<BTreeSet<_>>().len() == 2, "{drawn:?}");
        ensure!(jobs(node, &site, 0..4)? == before, "runs that exist keep their policy");
        let candidates = drawn.values().filter(|policy| *policy == "next").count();
        wait_for("all runs are counted", || {
            let one = show(node)?;
            let counted = |arm: &str| one[arm]["live"].as_u64().and_then(|live| usize::try_from(live).ok());
            Ok(counted("candidate") == Some(candidates) && counted("control") == Some(drawn.len() - candidates))
        })?;
        node.ctl(["policy", "canary", "withdraw", "trainer", "--reason", "enough"])?.expect(0)?;
        let later = jobs(node, &site, 200..206)?;
        ensure!(later.values().all(|policy| policy == "open"), "{later:?}");
        ensure!(jobs(node, &site, 100..100 + DRAWS)? == drawn, "runs keep the policy that they have");
        Ok(())
    })
}
