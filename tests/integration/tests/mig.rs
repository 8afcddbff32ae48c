//! GPUs in MIG mode: runs on parts of a card.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Started, on_gpu_node, wait_for};
use std::fs;

/// Without rules.
const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o@example.org\"\n";

#[test]
fn two_runs_on_two_slices_of_one_card_are_no_strangers_and_share_it_by_size() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pid_file = |name: &str| folder.path().join(format!("{name}.pid"));
    let process = |name: &str, slice: u32| {
        let file = pid_file(name).display().to_string();
        format!("[[gpu.process]]\npid_file = {file:?}\nmemory = \"2 GiB\"\nmig = {slice}\n")
    };
    let scenario =
        "[[gpu]]\nmodel = \"H100\"\ntemperature = 60\npower = 400\nutilization = 70\nmig = [\"1g.10gb\", \"3g.40gb\"]\n"
            .to_owned()
            + &process("small", 0) + &process("large", 1);
    on_gpu_node("slices", &scenario, "", |node| {
        let device = |at: usize| -> Result<String> {
            let gpu = node.json(["gpu", "describe", "0"])?;
            Ok(gpu["info"]["mig_devices"][at]["uuid"].as_str().context("a MIG device")?.to_owned())
        };
        wait_for("the card is seen", || Ok(node.code(&["node", "health"])? == 0))?;
        let policy = node.policy("p", POLICY)?.display().to_string();
        let start = |name: &'static str, gpu: &str| {
            let script = format!("echo $$ > {} && exec sleep 600", pid_file(name).display());
            Launch::new(name, POLICY).gpu(gpu).user("root").start(node, ["sh", "-c", &script])
        };
        let whole_too = ["run", "-p", &policy, "--gpu", "0", "--gpu", &device(0)?, "--user", "root", "--", "true"];
        ensure!(node.ctl(whole_too)?.code == 2, "a card as a whole and as a slice");
        let _small = start("small", &device(0)?)?;
        wait_for("one slice is taken", || {
            let capacity = node.json(["node", "capacity"])?;
            Ok(capacity["mig_devices"] == 2 && capacity["mig_free"] == 1)
        })?;
        ensure!(node.code(&["node", "placeable", "--count", "1", "--mig", "1g.10gb"])? == 14);
        ensure!(node.code(&["node", "placeable", "--count", "1", "--mig", "3g.40gb"])? == 0);
        let _large = start("large", &device(1)?)?;
        for (name, at) in [("small", 0), ("large", 1)] {
            wait_for("it is shared by size", || {
                Ok(node.run(name).is_ok_and(|run| run["gpu_use"][0]["sharing"] == "by-slices"))
            })?;
            let run = node.run(name)?;
            ensure!(run["mig_devices"][0] == device(at)?.as_str(), "{run}");
            ensure!(run["gpu_use"][0]["memory_bytes"] == 2u64 << 30, "{run}");
        }
        for name in ["small", "large"] {
            wait_for("it is charged", || {
                let used = &node.run(name)?["gpu_use"][0];
                Ok(used["energy_mj"].as_u64() > Some(0) && used["time_us"].as_u64() > Some(0))
            })?;
            wait_for("it is told what each made of its own", || {
                Ok(node.run(name)?["gpu_use"][0]["utilization_mpct"] == 70_000)
            })?;
        }
        let page = node.ctl(["gpu", "describe", "0"])?.expect(0)?.out;
        let row = page.lines().find(|line| line.contains(&device(1).unwrap_or_default())).context("no row")?;
        ensure!(row.contains("70 %") && row.contains("2.0 GiB"), "{page}");
        Ok(())
    })
}

#[test]
fn an_xid_of_one_slice_freezes_the_run_on_it_and_no_other() -> Result<()> {
    const XID: &str = "[policy]\nname = \"xid\"\nowner = \"o@example.org\"\non_blind = \"continue\"\n\
        [[rule]]\nid = \"xid\"\nrationale = \"x\"\nwhen = { event = \"xid\" }\nactions = [\"freeze\"]\n";
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("kmsg");
    fs::write(&log, "")?;
    let tables = format!("[kernel_log]\npath = {:?}\n", log.display().to_string());
    let scenario = "[[gpu]]\nmodel = \"H100\"\ntemperature = 60\nmig = [\"1g.10gb\", \"3g.40gb\"]\n";
    on_gpu_node("slice-xid", scenario, &tables, |node| {
        wait_for("the card is seen", || Ok(node.code(&["node", "health"])? == 0))?;
        let card = node.json(["gpu", "describe", "0"])?;
        let devices = card["info"]["mig_devices"].as_array().context("MIG devices")?;
        let device = |at: usize| devices[at]["uuid"].as_str().context("UUID");
        let small = Launch::new("small", XID).gpu(device(0)?).start(node, ["sleep", "600"])?;
        let large = Launch::new("large", XID).gpu(device(1)?).start(node, ["sleep", "600"])?;
        let bus = card["pci"].as_str().context("PCI address")?;
        let instance = devices[1]["gpu_instance"].as_u64().context("GPU instance")?;
        let mut out = fs::OpenOptions::new().append(true).open(&log)?;
        let mut say = |n: u32, place: &str, code: u32| {
            let line = format!("4,{n},1,-;NVRM: Xid (PCI:{bus}{place}): {code}, pid=1, name=x\n");
            std::io::Write::write_all(&mut out, line.as_bytes())
        };
        say(1, &format!(" GPU-I:{instance:02}"), 94)?;
        let of = |run: &Started| {
            node.wait_for_event("the decision", |e| {
                e["run"] == run.id() && e["body"]["decision"]["cause"]["Rule"]["rule"] == "xid"
            })
        };
        let first = of(&large)?["body"]["decision"]["values"][0].clone();
        ensure!(first["value"].to_string().contains(&format!("\"gpu_instance\":{instance}")), "{first}");
        ensure!(node.run("small")?["state"] == "running", "the neighbour was frozen");
        // One of the whole card is told to both: the neighbour's first decision is of that one.
        say(2, "", 95)?;
        let first = of(&small)?["body"]["decision"]["values"][0].clone();
        ensure!(first["value"]["Event"]["Xid"]["code"] == 95, "{first}");
        let page = node.ctl(["explain", "large"])?.expect(0)?.out;
        ensure!(page.contains(&format!("GPU instance {instance}")), "{page}");
        ensure!(node.ctl(["replay", "large"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

#[test]
fn a_run_that_is_judged_by_its_slice_is_frozen_alone_and_the_slice_proves_it() -> Result<()> {
    const BUSY: &str = "[policy]\nname = \"busy\"\nowner = \"o@example.org\"\n\
        [[rule]]\nid = \"busy\"\nrationale = \"x\"\nwhen = { signal = \"gpu.utilization\", above = \"50 %\" }\n\
        actions = [\"freeze\"]\n";
    let folder = tempfile::tempdir()?;
    let pid_file = folder.path().join("large.pid");
    // Nobody works on the first device.
    let process =
        format!("[[gpu.process]]\npid_file = {:?}\nmemory = \"2 GiB\"\nmig = 1\n", pid_file.display().to_string());
    let scenario = "[[gpu]]\nmodel = \"H100\"\npower = 400\nutilization = 80\nmig = [\"1g.10gb\", \"3g.40gb\"]\n"
        .to_owned()
        + &process;
    on_gpu_node("slice-busy", &scenario, "", |node| {
        wait_for("the card is seen", || Ok(node.code(&["node", "health"])? == 0))?;
        let policy = node.policy("busy", BUSY)?.display().to_string();
        // The whole card tells no utilisation; its MIG devices do, once they have been measured.
        let whole = ["run", "-p", &policy, "--gpu", "0", "--user", "nobody", "--", "true"];
        let refused = node.ctl(whole)?.expect(1)?;
        ensure!(refused.err.contains("needs gpu.utilization"), "{refused:?}");
        wait_for("the policy is of use here", || Ok(node.code(&["policy", "check", "--node", &policy])? == 0))?;
        let card = node.json(["gpu", "describe", "0"])?;
        let uuid = |at: usize| card["info"]["mig_devices"][at]["uuid"].as_str().map(str::to_owned).context("UUID");
        let (small, large) = (uuid(0)?, uuid(1)?);
        let _small = Launch::new("small", BUSY).gpu(&small).start(node, ["sleep", "600"])?;
        let script = format!("echo $$ > {} && exec sleep 600", pid_file.display());
        let run = Launch::new("large", BUSY).gpu(&large).user("root").start(node, ["sh", "-c", &script])?;
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "busy")?;
        ensure!(decision["run"] == run.id(), "{decision}");
        ensure!(decision["body"]["decision"]["values"][0]["subject"]["Gpu"] == large.as_str(), "{decision}");
        let proof = node.wait_for_event("the proof of the MIG device", |e| {
            e["body"]["action"] == "freeze" && e["body"]["verdict"] == "proved"
        })?;
        ensure!(proof["body"]["proofs"].to_string().contains(&format!("NVML {large}")), "{proof}");
        ensure!(node.run("large")?["state"] == "frozen" && node.run("small")?["state"] == "running");
        ensure!(node.json(["node", "health"])?["gpus"].as_array().map(Vec::len) == Some(1), "a device is no GPU");
        ensure!(node.ctl(["replay", "large"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}
