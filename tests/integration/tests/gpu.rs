//! GPUs through NVML, here through the simulated library: the daemon knows nothing of it but its path.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, TWO_GPUS, on_gpu_node, on_node, sentinel, wait_for};
use std::fs;

const HOT: &str = r#"
[policy]
name = "hot"
owner = "node-operations@example.org"

[[rule]]
id = "too-hot"
rationale = "a card above 90 C has lost its cooling"
when = { signal = "gpu.temperature", above = "90 C", clear = "80 C" }
actions = ["freeze", "snapshot", "notify"]

[[rule]]
id = "crowd"
rationale = "never so many"
when = { signal = "process.count", above = 20 }
actions = ["freeze"]
"#;

/// A policy without rules.
const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o@example.org\"\n";

fn gpu(temperature: &str, more: &str) -> String {
    format!(
        "[[gpu]]\nmodel = \"H100\"\ntemperature = {temperature}\npower = 300\nutilization = 0\nmemory_used = \"1 GiB\"\n{more}\n"
    )
}

/// The UUID of the GPU of the run `on-hot`.
fn on_hot_gpu(node: &integration::Node) -> Result<String> {
    Ok(node.run("on-hot")?["gpus"][0].as_str().context("its GPU")?.to_owned())
}

#[test]
fn a_gpu_that_overheats_freezes_its_run_and_no_other() -> Result<()> {
    let scenario = format!("{}{}", gpu("[[0, 62], [1.5, 62], [1.6, 95]]", ""), gpu("60", ""));
    on_gpu_node("hot", &scenario, "", |node| {
        let status = node.json(["node", "status"])?;
        ensure!(status["nvml"].as_str().is_some_and(|s| s.contains("simulated")), "{status}");
        wait_for("both GPUs are seen", || {
            Ok(node.json(["node", "status"])?["gpus"].as_array().map(Vec::len) == Some(2))
        })?;
        let script = "echo \"visible $CUDA_VISIBLE_DEVICES, metrics $FAILSAFE_METRICS_SOCKET\"; exec sleep 600";
        let on_hot = Launch::new("on-hot", HOT).gpu("0").start(node, ["sh", "-c", script])?;
        let expected = format!("visible {}, metrics {}", on_hot_gpu(node)?, node.metrics_socket().display());
        wait_for("the run knows its GPU", || Ok(on_hot.output().contains(&expected)))?;
        let on_cool = Launch::new("on-cool", HOT).gpu("1").start(node, ["sleep", "600"])?;
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "too-hot")?;
        ensure!(decision["run"] == on_hot.id(), "{decision}");
        let seen = &decision["body"]["decision"]["values"][0];
        ensure!(seen["value"]["Integer"].as_i64() > Some(90_000), "{seen}");
        // The cgroup stands still at once; with the GPU it is proved only when a later sample shows it idle.
        wait_for("the freeze is proved, GPU and all", || Ok(node.run("on-hot")?["state"] == "frozen"))?;
        node.wait_for_event("the proof of the GPU", |e| {
            e["body"]["action"] == "freeze"
                && e["body"]["verdict"] == "proved"
                && e["body"]["proofs"].to_string().contains("NVML")
        })?;
        ensure!(node.run(on_cool.name())?["state"] == "running", "the run on the other GPU was frozen");
        ensure!(node.ctl(["replay", "on-hot"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

#[test]
fn a_rule_on_a_signal_that_the_runs_gpu_does_not_report_is_no_rule() -> Result<()> {
    // The first GPU has no temperature, the second cannot tell its.
    let fault = |gpu: u32, error: &str| {
        format!("[[fault]]\nfunction = \"nvmlDeviceGetTemperature\"\ngpu = {gpu}\nerror = \"{error}\"\n")
    };
    let scenario =
        TWO_GPUS.to_owned() + "[[gpu]]\nmodel = \"H100\"\n\n" + &fault(0, "NOT_SUPPORTED") + &fault(1, "UNKNOWN");
    on_gpu_node("unread", &scenario, "", |node| {
        // What it does not tell is known from its first sample on.
        wait_for("the GPUs are sampled", || Ok(node.code(&["node", "health", "--gpu", "2"])? == 0))?;
        let hot = node.policy("hot", HOT)?.display().to_string();
        let run = |gpu: &str| node.ctl(["run", "-p", &hot, "--gpu", gpu, "--user", "nobody", "--", "true"]);
        for (gpu, why) in [("0", "does not have it"), ("1", "it fails on")] {
            let refused = run(gpu)?.expect(1)?;
            ensure!(refused.err.contains("needs gpu.temperature") && refused.err.contains(why), "{gpu}: {refused:?}");
        }
        run("2")?.expect(0)?;
        // One GPU of the node can be watched: the policy is of use here.
        node.ctl(["policy", "check", "--node", &hot])?.expect(0)?;
        Ok(())
    })?;
    let scenario = TWO_GPUS.to_owned() + &fault(0, "NOT_SUPPORTED") + &fault(1, "NOT_SUPPORTED");
    on_gpu_node("unread-all", &scenario, "", |node| {
        let hot = node.policy("hot", HOT)?.display().to_string();
        wait_for("the policy is of no use here", || Ok(node.code(&["policy", "check", "--node", &hot])? == 1))?;
        let check = node.ctl(["policy", "check", "--node", &hot])?.expect(1)?;
        ensure!(check.out.contains("needs gpu.temperature"), "{check:?}");
        let willing = HOT.replace("owner =", "on_blind = \"continue\"\nowner =");
        let willing = node.policy("willing", &willing)?.display().to_string();
        let check = node.ctl(["policy", "check", "--node", &willing])?.expect(1)?;
        ensure!(check.out.contains("this node accepts the policy") && check.out.contains("not seen"), "{check:?}");
        node.ctl(["run", "-p", &willing, "--gpu", "0", "--user", "nobody", "--", "true"])?.expect(0).map(drop)
    })
}

#[test]
fn nvml_that_hangs_in_a_call_is_reported_and_the_other_sensors_go_on() -> Result<()> {
    let fault = "[[fault]]\nfunction = \"nvmlDeviceGetTemperature\"\ngpu = 0\nfrom = 1.0\nhang = true\n";
    on_gpu_node("hang", &gpu("60", fault), "", |node| {
        wait_for("the GPU is seen", || Ok(node.json(["node", "status"])?["gpus"].as_array().map(Vec::len) == Some(1)))?;
        let crowd = sentinel(node, "crowd")?;
        let script = format!(
            "while ! grep -q go {}; do sleep 0.01; done; i=0; while [ $i -lt 30 ]; do sleep 600 & i=$((i+1)); done; wait",
            crowd.display()
        );
        let policy = HOT.replace("owner =", "on_blind = \"continue\"\nowner =");
        let run = Launch::new("crowded", &policy).start(node, ["sh", "-c", &script])?;
        wait_for("NVML's blindness is told", || {
            let status = node.json(["node", "status"])?;
            let sensors = status["sensors"].as_array().context("sensors")?;
            Ok(sensors.iter().any(|s| s["name"] == "nvml" && s["sees"] == false))
        })?;
        node.wait_for_event("the gap", |e| {
            e["body"]["type"] == "gap" && e["body"]["source"] == "Nvml" && e["body"]["blind"] == true
        })?;
        fs::write(&crowd, "go")?;
        run.freezes()?;
        node.wait_for_event("the decision of another sensor's rule", |e| {
            e["body"]["decision"]["cause"]["Rule"]["rule"] == "crowd"
        })?;
        node.log_is_whole()
    })
}

#[test]
fn without_the_library_the_node_reports_that_gpus_are_not_seen() -> Result<()> {
    on_node("no-library", "[nvml]\nlibrary = \"/nonexistent/libnvidia-ml.so.1\"\n", |node| {
        let status = node.json(["node", "status"])?;
        let sensors = status["sensors"].as_array().context("sensors")?;
        let nvml = sensors.iter().find(|s| s["name"] == "nvml").context("no NVML among the sensors")?;
        ensure!(nvml["sees"] == false && nvml["detail"].to_string().contains("nonexistent"), "{nvml}");
        let policy = node.policy("hot", HOT)?.display().to_string();
        let refused = node.ctl(["run", "-p", &policy, "--user", "nobody", "--", "true"])?.expect(1)?;
        ensure!(refused.err.contains("too-hot"), "{refused:?}");
        let output = node.wait_for_event("NVML's first word", |e| e["body"]["type"] == "nvml")?;
        ensure!(output["body"]["blind"].to_string().contains("nonexistent"), "{output}");
        Ok(())
    })
}

/// A run `careful` on the one GPU, which has the fault, under a policy that freezes what cannot be seen.
fn with_a_careful_run(name: &str, fault: &str, check: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
    on_gpu_node(name, &gpu("60", fault), "", |node| {
        wait_for("the GPU is seen", || Ok(node.json(["node", "status"])?["gpus"].as_array().map(Vec::len) == Some(1)))?;
        let policy = HOT.replace("owner =", "on_blind = \"freeze\"\nowner =");
        let _careful = Launch::new("careful", &policy).gpu("0").start(node, ["sleep", "600"])?;
        check(node)
    })
}

#[test]
fn a_run_whose_policy_demands_it_is_frozen_when_its_gpu_is_out_of_sight() -> Result<()> {
    let fault = "[[fault]]\nfunction = \"nvmlDeviceGetTemperature\"\ngpu = 0\nfrom = 3.0\nhang = true\n";
    with_a_careful_run("blind", fault, |node| {
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Upkeep"]["what"] == "blind")?;
        ensure!(decision["body"]["decision"]["actions"].to_string().contains("freeze"), "{decision}");
        let cgroup = node.mount().join(node.run("careful")?["cgroup"].as_str().unwrap_or_default());
        wait_for("its cgroup is frozen", || integration::frozen(&cgroup))?;
        // No sample can show its GPU idle: the containment must not read as whole.
        wait_for("it is listed as partial", || Ok(node.run("careful")?["state"] == "partial"))?;
        let page = node.ctl(["explain", "careful"])?.expect(0)?.out;
        ensure!(page.contains("no sample since the freeze shows it idle"), "{page}");
        node.log_is_whole()
    })
}

#[test]
fn a_signal_that_fails_later_is_blindness_to_the_run_on_that_gpu_and_degrades_it() -> Result<()> {
    let fault = "[[fault]]\nfunction = \"nvmlDeviceGetTemperature\"\ngpu = 0\nfrom = 3.0\nerror = \"UNKNOWN\"\n";
    with_a_careful_run("unread-later", fault, |node| {
        let gap = node.wait_for_event("the gap", |e| {
            e["body"]["type"] == "gap" && e["body"]["what"].to_string().contains("gpu.temperature cannot be read")
        })?;
        ensure!(gap["body"]["blind"] == true && !gap["body"]["gpu"].is_null(), "{gap}");
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Upkeep"]["what"] == "blind")?;
        ensure!(decision["body"]["decision"]["actions"].to_string().contains("freeze"), "{decision}");
        // Its other signals are read: its GPU is seen to be idle.
        wait_for("it is frozen", || Ok(node.run("careful")?["state"] == "frozen"))?;
        let health = node.json(["gpu", "describe", "0"])?;
        ensure!(health["level"] == "degraded" && health["reasons"][0]["code"] == "signals-unread", "{health}");
        ensure!(node.ctl(["replay", "careful"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

#[test]
fn what_a_gpu_answers_wrongly_is_in_the_doctors_report_and_stops_nothing() -> Result<()> {
    let twin = "uuid = \"GPU-00000000-0000-0000-0000-000000000001\"";
    let scenario = format!(
        "[driver]\nduplicate_uuids = true\n{}{}{}{}",
        gpu("60", ""),
        gpu("61", twin),
        gpu("62", twin),
        "[[fault]]\nfunction = \"nvmlDeviceGetName\"\ngpu = 0\ncorrupt = \"ones\"\n\
         [[fault]]\nfunction = \"nvmlDeviceGetTemperature\"\ngpu = 0\ncorrupt = \"ones\"\n\
         [[fault]]\nfunction = \"nvmlDeviceGetPowerUsage\"\ngpu = 0\nerror = \"UNKNOWN\"\n\
         [[fault]]\nfunction = \"nvmlDeviceGetBAR1MemoryInfo\"\ngpu = 0\nerror = \"NOT_SUPPORTED\"\n"
    );
    on_gpu_node("doctor", &scenario, "", |node| {
        wait_for("two GPUs are seen", || {
            Ok(node.json(["node", "status"])?["gpus"].as_array().map(Vec::len) == Some(2))
        })?;
        let mut checks = Vec::new();
        wait_for("the doctor names what fails", || {
            let doctor = node.ctl(["doctor", "-o", "json"])?.json()?;
            checks = doctor["checks"].as_array().context("checks")?.iter().map(ToString::to_string).collect();
            Ok(checks.iter().any(|check| check.contains("gpu 0") && check.contains("gpu.power")))
        })?;
        let check = |what: &str| checks.iter().find(|check| check.contains(what)).context("no such check");
        let sick = check("gpu 0 ")?;
        for part in ["gpu.temperature: -1000 cannot be", "gpu.power: ", "nvmlDeviceGetName: ", "degraded"] {
            ensure!(sick.contains(part), "{part} is not in {sick}");
        }
        wait_for("what it lacks is told beside what fails", || {
            let doctor = node.ctl(["doctor", "-o", "json"])?.json()?;
            let of = |check: &&serde_json::Value| check["name"].as_str().is_some_and(|name| name.starts_with("gpu 0 "));
            let sick = doctor["checks"].as_array().and_then(|all| all.iter().find(of)).context("GPU 0")?;
            let detail = sick["detail"].as_str().unwrap_or_default();
            Ok(detail.contains("unsupported: [") && detail.contains("gpu.bar1_used") && detail.contains("gpu.power: "))
        })?;
        let twins = check("has the UUID of GPU")?;
        ensure!(twins.contains("cannot be distinguished"), "{twins}");
        // The slow signals and the events' registration come later than the first sample.
        wait_for("what GPU 0 has not is told, and the other is well", || {
            let status = node.json(["node", "status"])?;
            let gpus = status["gpus"].as_array().context("GPUs")?;
            let sick = gpus.iter().find(|gpu| gpu["index"] == 0).context("GPU 0")?;
            let well = |gpu: &serde_json::Value| gpu["failing"].as_array().is_none_or(Vec::is_empty);
            Ok(sick["unsupported"].to_string().contains("gpu.bar1_used")
                && gpus.iter().any(|gpu| gpu["index"] != 0 && well(gpu)))
        })
    })
}

#[test]
fn two_runs_on_one_card_are_shown_with_the_part_of_each() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pid_file = |name: &str| folder.path().join(format!("{name}.pid"));
    let process = |name: &str, gib: u32, weight: u32| {
        let file = pid_file(name).display().to_string();
        format!("[[gpu.process]]\npid_file = {file:?}\nmemory = \"{gib} GiB\"\nweight = {weight}\n")
    };
    let scenario =
        "[[gpu]]\nmodel = \"H100\"\ntemperature = 60\npower = 400\nutilization = 80\nmemory_used = \"9 GiB\"\n"
            .to_owned()
            + &process("works", 3, 3)
            + &process("helps", 2, 1);
    on_gpu_node("use", &scenario, "", |node| {
        let start = |name: &'static str| {
            let script = format!("echo $$ > {} && exec sleep 600", pid_file(name).display());
            Launch::new(name, POLICY).gpu("0").user("root").start(node, ["sh", "-c", &script])
        };
        let _runs = [start("works")?, start("helps")?];
        for (name, part, gib) in [("works", 60_000, 3u64), ("helps", 20_000, 2)] {
            wait_for("it runs", || Ok(node.run(name).is_ok_and(|run| run["state"] == "running")))?;
            wait_for("its part is told", || {
                let used = &node.json(["describe", name])?["gpu_use"][0];
                Ok(used["sharing"] == "by-utilization" && used["utilization_mpct"] == part)
            })?;
            wait_for("it is charged for it", || {
                let used = &node.json(["describe", name])?["gpu_use"][0];
                Ok(used["energy_mj"].as_u64() > Some(0) && used["time_us"].as_u64() > Some(0))
            })?;
            let used = node.json(["describe", name])?["gpu_use"][0].clone();
            ensure!(used["memory_bytes"] == gib << 30, "{used}");
            let page = node.ctl(["describe", name])?.expect(0)?.out;
            ensure!(page.contains("by-utilization") && page.contains("GPU TIME"), "{page}");
        }
        Ok(())
    })
}

#[test]
fn a_run_on_a_gpu_that_another_run_holds_gets_a_warning() -> Result<()> {
    on_gpu_node("shared-gpu", TWO_GPUS, "", |node| {
        let all = |node: &Node| Ok(node.json(["node", "status"])?["gpus"].as_array().map(Vec::len) == Some(2));
        wait_for("both GPUs are seen", || all(node))?;
        let first = Launch::new("first", POLICY).gpu("0").user("root").start(node, ["sleep", "600"])?;
        let none = node.run("first")?["warnings"].clone();
        ensure!(none == serde_json::json!([]), "nobody else has the GPU: {none}");
        let second = Launch::new("second", POLICY).gpu("0").start(node, ["sleep", "600"])?;
        let apart = Launch::new("apart", POLICY).gpu("1").start(node, ["sleep", "600"])?;
        let named = format!("is also held by run first ({})", first.id());
        let warning = node.run("second")?["warnings"][0].as_str().context("a warning")?.to_owned();
        ensure!(warning.ends_with(&named), "{warning}");
        ensure!(node.ctl(["describe", "first"])?.expect(0)?.out.contains(second.id()), "the other one has it, too");
        ensure!(node.run(apart.name())?["warnings"] == serde_json::json!([]));
        // The owner of the second run may not see the first one.
        let own = node.ctl_as(NOBODY, ["describe", "second"])?.expect(0)?.out;
        ensure!(own.contains("is also held by a run of another user") && !own.contains(first.id()), "{own}");
        Ok(())
    })
}
