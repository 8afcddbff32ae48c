//! The node's health, from the (simulated) GPU to the exit code that a scheduler acts on.

use anyhow::{Result, ensure};
use integration::{Launch, TWO_GPUS, on_gpu_node, on_node, wait_for};
use std::fs;

#[test]
fn an_xid_makes_its_gpu_unhealthy_until_somebody_resets_it() -> Result<()> {
    let scenario = format!("{TWO_GPUS}[[gpu.event]]\nat = 2.0\nxid = 79\n");
    on_gpu_node("xid", &scenario, "", |node| {
        wait_for("both GPUs are well", || Ok(node.code(&["node", "health"])? == 0))?;
        wait_for("the GPU with the XID is unhealthy", || Ok(node.code(&["node", "health", "--gpu", "1"])? == 12))?;
        ensure!(node.code(&["node", "health"])? == 10, "one of two degrades the node");
        ensure!(node.code(&["node", "health", "--gpu", "0"])? == 0);
        ensure!(node.code(&["node", "placeable", "--count", "1"])? == 0);
        ensure!(node.code(&["node", "placeable", "--count", "2", "--degraded"])? == 14);
        ensure!(node.code(&["node", "placeable", "--count", "1", "--model", "h100", "--memory-free", "1GiB"])? == 0);
        let asked = ["node", "placeable", "--count", "1", "--model", "B200", "--exclude", "1", "-o", "json"];
        let no = node.ctl(asked)?.expect(14)?.json()?;
        ensure!(no["placeable"] == false && no["reasons"].to_string().contains("`B200` is wanted"), "{no}");
        ensure!(node.code(&["node", "placeable", "--model", "H100"])? == 2, "a constraint of no GPU");
        ensure!(node.code(&["node", "placeable", "--count", "1", "--mig", "perhaps"])? == 2);
        let capacity = node.json(["node", "capacity"])?;
        ensure!(capacity["free"] == 1 && capacity["unhealthy"] == 1, "{capacity}");
        node.wait_for_event("the change on record", |e| {
            e["body"]["type"] == "health" && e["body"]["to"] == "unhealthy" && e.to_string().contains("xid-79")
        })?;
        // It stays over a crash: the file on disk, not the memory, is what is asked.
        let kept = node.state_dir().join("health.json");
        wait_for("it is kept", || Ok(fs::read_to_string(&kept).is_ok_and(|text| text.contains("xid-79"))))?;
        // The scenario starts anew with the daemon's sampler, so that the XID would come again: only what was kept says so now.
        node.kill9()?;
        node.restart()?;
        wait_for("the GPU is seen again", || {
            let health = node.json(["gpu", "describe", "1"])?;
            Ok(health["reasons"].as_array().is_some_and(|all| all.iter().all(|r| r["code"] != "blind")))
        })?;
        ensure!(node.code(&["node", "health", "--gpu", "1"])? == 12, "it forgot");
        wait_for("the XID has come again", || {
            Ok(node.json(["gpu", "describe", "1"])?["reasons"][0]["count"].as_u64() >= Some(2))
        })?;
        node.ctl(["gpu", "reset-health", "1", "-r", "card replaced"])?.expect(0)?;
        ensure!(node.code(&["node", "health"])? == 0);
        let changes = node.ctl(["node", "watch", "--once", "-o", "json"])?.expect(0)?.out;
        ensure!(changes.contains("card replaced"), "{changes}");
        node.log_is_whole()
    })
}

#[test]
fn a_cordon_is_an_operators_and_stays_over_a_restart() -> Result<()> {
    on_gpu_node("cordon", TWO_GPUS, "", |node| {
        wait_for("both GPUs are well", || Ok(node.code(&["node", "health"])? == 0))?;
        node.ctl(["gpu", "cordon", "1", "-r", "fan is loud"])?.expect(0)?;
        ensure!(node.code(&["node", "health", "--gpu", "1"])? == 11);
        ensure!(node.code(&["node", "placeable", "--gpu", "1"])? == 14);
        node.ctl(["node", "cordon", "-r", "kernel update"])?.expect(0)?;
        ensure!(node.code(&["node", "health"])? == 11);
        node.stop()?;
        ensure!(node.code(&["node", "health"])? == 13, "without a daemon nobody knows");
        node.restart()?;
        wait_for("the GPU is seen again", || Ok(node.code(&["node", "health", "--gpu", "0"])? == 11))?;
        node.ctl(["node", "uncordon", "-r", "done"])?.expect(0)?;
        wait_for("only the GPU's cordon is left", || Ok(node.code(&["node", "health"])? == 10))?;
        node.ctl(["gpu", "uncordon", "1", "-r", "fan oiled"])?.expect(0)?;
        wait_for("all is well, once the GPU is seen again", || Ok(node.code(&["node", "health"])? == 0))?;
        let order = node.wait_for_event("the order on record", |e| {
            e["body"]["type"] == "order" && e["body"]["why"] == "fan oiled"
        })?;
        ensure!(order["body"]["by"].as_str().is_some_and(|by| by.contains("user 0")), "{order}");
        node.log_is_whole()
    })
}

#[test]
fn nothing_is_started_on_a_gpu_that_is_cordoned_but_for_its_repair() -> Result<()> {
    const NOBODY: u32 = 65_534;
    on_gpu_node("repair", TWO_GPUS, "", |node| {
        wait_for("both GPUs are well", || Ok(node.code(&["node", "health"])? == 0))?;
        node.ctl(["gpu", "cordon", "1", "-r", "fan is loud"])?.expect(0)?;
        let policy = node.policy("p", "[policy]\nname = \"p\"\nowner = \"o@example.org\"\n")?.display().to_string();
        let run = |more: &[&str]| {
            let args = ["run", "-p", &policy, "--gpu", "1", "--user", "nobody"];
            node.ctl(args.into_iter().chain(more.iter().copied()).chain(["--", "true"]))
        };
        let refused = run(&[])?.expect(1)?;
        for word in ["GPU-", "is draining: cordoned by user 0", "fan is loud", "gpu uncordon", "--repair"] {
            ensure!(refused.err.contains(word), "{word} is not in {refused:?}");
        }
        ensure!(node.json(["list", "--all"])?.as_array().is_some_and(Vec::is_empty), "a run was left");
        let args = ["run", "-p", &policy, "--gpu", "1", "--repair", "--", "true"];
        let denied = node.ctl_as(NOBODY, args)?.expect(4)?;
        ensure!(denied.err.contains("administrators' group"), "{denied:?}");
        run(&["--repair", "-n", "mends"])?.expect(0)?;
        let started =
            node.wait_for_event("the start", |e| e["body"]["type"] == "run-started" && e["body"]["repair"].is_array())?;
        ensure!(started["body"]["repair"][0].to_string().contains("fan is loud"), "{started}");
        let sleep = ["run", "-p", &policy, "--gpu", "0", "--user", "nobody", "--", "true"];
        node.ctl(sleep)?.expect(0)?;
        node.ctl(["node", "cordon", "-r", "kernel update"])?.expect(0)?;
        let refused = node.ctl(sleep)?.expect(1)?;
        ensure!(refused.err.contains("node is draining") && refused.err.contains("node uncordon"), "{refused:?}");
        node.log_is_whole()
    })
}

#[test]
fn the_kernels_log_reports_an_xid_that_nvml_does_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("kmsg");
    fs::write(&log, "")?;
    let tables = format!("[kernel_log]\npath = {:?}\n", log.display().to_string());
    on_gpu_node("kmsg", TWO_GPUS, &tables, |node| {
        wait_for("both GPUs are well", || Ok(node.code(&["node", "health"])? == 0))?;
        let bus = node.json(["gpu", "describe", "0"])?["pci"].as_str().unwrap_or_default().to_owned();
        ensure!(!bus.is_empty(), "the GPU's place is not told");
        let mut out = fs::OpenOptions::new().append(true).open(&log)?;
        // A user's own line counts for nothing; the kernel's does, however often it comes.
        let mut lines = format!("12,1,1,-;NVRM: Xid (PCI:{bus}): 79, from a user\n");
        for n in 2..2_000 {
            lines.push_str(&format!("4,{n},1,-;NVRM: Xid (PCI:{bus}): 95, pid=1, name=x\n"));
        }
        std::io::Write::write_all(&mut out, lines.as_bytes())?;
        wait_for("the GPU is unhealthy", || Ok(node.code(&["node", "health", "--gpu", "0"])? == 12))?;
        let reasons = node.json(["gpu", "describe", "0"])?["reasons"].to_string();
        ensure!(reasons.contains("xid-95") && !reasons.contains("xid-79"), "{reasons}");
        ensure!(node.code(&["node", "health", "--gpu", "1"])? == 0);
        node.log_is_whole()
    })
}

/// A policy whose rules bound what the core derives, and what GPUs are shared with.
const DERIVED: &str = r#"
[policy]
name = "derived"
owner = "node-operations@example.org"
on_blind = "continue"

[[rule]]
id = "spins"
rationale = "busy at a fraction of the power: it waits in a collective"
when = { signal = "gpu.derived.spinning", above = "1 s" }
actions = ["freeze", "cordon-gpu", "notify"]

[[rule]]
id = "stranger"
rationale = "a GPU of this run is this run's"
when = { event = "foreign-gpu-process", comm = "sleep" }
actions = ["notify"]
"#;

#[test]
fn a_derived_signal_freezes_its_run_and_cordons_its_gpu_and_a_stranger_on_it_is_reported() -> Result<()> {
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn()?;
    let scenario = format!(
        "[[gpu]]\nmodel = \"H100\"\ntemperature = 60\npower = 80\nutilization = 100\nmemory_used = \"1 GiB\"\n\
         [[gpu.process]]\npid = {}\nmemory = \"512 MiB\"\n\n{TWO_GPUS}",
        stranger.id()
    );
    let done = on_gpu_node("derived", &scenario, "", |node| {
        wait_for("the GPUs are seen", || Ok(node.code(&["node", "health"])? == 0))?;
        let spins = Launch::new("spins", DERIVED).gpu("0").start(node, ["sleep", "600"])?;
        let _idles = Launch::new("idles", DERIVED).gpu("1").start(node, ["sleep", "600"])?;
        let told =
            node.wait_for_event("the stranger", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "stranger")?;
        ensure!(told["run"] == spins.id(), "{told}");
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "spins")?;
        ensure!(decision["run"] == node.run("spins")?["id"], "{decision}");
        node.wait_for_event("the cordon is proved", |e| {
            e["body"]["action"] == "cordon-gpu" && e["body"]["verdict"] == "proved"
        })?;
        ensure!(node.code(&["node", "health", "--gpu", "0"])? == 11);
        ensure!(node.code(&["node", "health", "--gpu", "1"])? == 0);
        ensure!(node.run("idles")?["state"] == "running");
        let gpu = node.json(["gpu", "describe", "0"])?;
        ensure!(gpu["reasons"][0]["text"].to_string().contains("rule spins"), "{gpu}");
        ensure!(gpu["processes"][0]["pid"] == stranger.id(), "{gpu}");
        ensure!(node.ctl(["replay", "spins"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    });
    let _ = stranger.kill();
    let _ = stranger.wait();
    done
}

#[test]
fn an_amd_gpu_is_read_from_sysfs_and_judged_alike() -> Result<()> {
    let sys = tempfile::tempdir()?;
    let device = sys.path().join("class/drm/card0/device");
    fs::create_dir_all(device.join("hwmon/hwmon3"))?;
    for (file, text) in [
        ("vendor", "0x1002"),
        ("unique_id", "9a1f3c5577e01234"),
        ("gpu_busy_percent", "0"),
        ("hwmon/hwmon3/temp1_input", "61000"),
        ("hwmon/hwmon3/temp1_crit", "100000"),
        ("hwmon/hwmon3/temp1_emergency", "105000"),
    ] {
        fs::write(device.join(file), text)?;
    }
    let settings = format!("[nvml]\ndisabled = true\n[amdgpu]\nsysfs = {:?}\n", sys.path().display().to_string());
    on_node("amd", &settings, |node| {
        wait_for("the GPU is well", || Ok(node.code(&["node", "health", "--gpu", "amdgpu-9a1f3c5577e01234"])? == 0))?;
        fs::write(device.join("hwmon/hwmon3/temp1_input"), "106000")?;
        wait_for("it is too hot", || Ok(node.code(&["node", "health", "--gpu", "0"])? == 12))?;
        let gpu = node.json(["gpu", "describe", "0"])?;
        ensure!(gpu["reasons"][0]["code"] == "temperature-shutdown", "{gpu}");
        ensure!(gpu["readings"]["gpu.temperature"] == 106_000, "{gpu}");
        let refused = node.ctl(["gpu", "reset", "0", "-r", "too hot"])?.expect(1)?;
        ensure!(refused.err.contains("is an AMD GPU") && refused.err.contains("not reset"), "{refused:?}");
        node.log_is_whole()
    })
}
