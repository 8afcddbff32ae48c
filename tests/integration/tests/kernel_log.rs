//! The kernel's log of the time without a daemon.

use anyhow::{Result, ensure};
use integration::{Launch, Node, TWO_GPUS, kernel_time_us, on_gpu_node, on_node, wait_for};
use serde_json::Value;
use std::fs;

/// A policy that freezes what has a GPU with an XID.
const XID: &str = r#"
[policy]
name = "xid"
owner = "node-operations@example.org"
on_blind = "continue"

[[rule]]
id = "xid"
rationale = "a GPU with an XID computes nothing that is worth having"
when = { event = "xid" }
actions = ["freeze"]
"#;

#[test]
fn an_xid_names_its_gpu_also_where_nvml_never_answered() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (log, driver) = (folder.path().join("kmsg"), folder.path().join("nvidia"));
    let uuid = "GPU-00000000-1111-2222-3333-444444444444";
    fs::create_dir_all(driver.join("gpus/0000:3b:00.0"))?;
    fs::write(driver.join("gpus/0000:3b:00.0/information"), format!("Model: \t NVIDIA H100\nGPU UUID: \t {uuid}\n"))?;
    let long = "x".repeat(9_000);
    // Record 2 was overwritten unread, record 3 is too long.
    let now = kernel_time_us()?;
    let lines = format!(
        "4,1,{now},-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1\n4,3,{now},-;{long}\n4,4,{now},-;NVRM: Xid (PCI:0000:4b:00): 79, x\n"
    );
    fs::write(&log, lines)?;
    let tables = format!(
        "[nvml]\nlibrary = \"/nonexistent/libnvidia-ml.so.1\"\ndriver_proc = {:?}\n[kernel_log]\npath = {:?}\n",
        driver.display().to_string(),
        log.display().to_string()
    );
    on_node("kmsg-no-nvml", &tables, |node| {
        wait_for("the GPU is told", || {
            let health = node.ctl(["node", "health", "-o", "json"])?.json()?;
            let gpu = &health["gpus"][0];
            Ok(gpu["gpu"] == uuid && gpu["level"] == "unhealthy" && gpu["reasons"].to_string().contains("\"xid-79\""))
        })?;
        wait_for("the other is told of the node", || {
            Ok(node.ctl(["node", "health", "-o", "json"])?.json()?["node"]["reasons"]
                .to_string()
                .contains("xid-79-elsewhere"))
        })?;
        let doctor = node.ctl(["doctor"])?;
        ensure!(doctor.out.contains("1 record(s) lost unread, 1 line(s) cut"), "{doctor:?}");
        Ok(())
    })
}

#[test]
fn kernel_log_records_of_the_time_without_a_daemon_are_judged_once_and_reported_to_the_runs_of_that_time() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("kmsg");
    let now = kernel_time_us()?;
    fs::write(
        &log,
        format!(
            "4,1,{now},-;mlx5_core 0000:5e:00.0: mlx5_pcie_event:301:(pid 9): Detected insufficient power on the PCIe slot (27W).\n"
        ),
    )?;
    let tables = format!("[kernel_log]\npath = {:?}\n", log.display().to_string());
    on_gpu_node("kmsg-past", TWO_GPUS, &tables, |node| {
        let reasons = |node: &Node, gpu: Option<&str>| -> Result<Value> {
            let output = match gpu {
                Some(gpu) => node.json(["gpu", "describe", gpu])?["reasons"].clone(),
                // Its exit code is the node's level.
                None => node.ctl(["node", "health", "-o", "json"])?.json()?["node"]["reasons"].clone(),
            };
            Ok(output)
        };
        let count = |node: &Node, gpu: Option<&str>, code: &str| -> Result<Option<u64>> {
            let output = reasons(node, gpu)?;
            let found = output.as_array().and_then(|all| all.iter().find(|r| r["code"] == code));
            Ok(found.and_then(|r| r["count"].as_u64()))
        };
        wait_for("the line from before the first start", || Ok(count(node, None, "nic-slot-power")? == Some(1)))?;
        // The node is degraded by that line.
        wait_for("the GPUs are seen", || Ok(node.code(&["node", "health", "--gpu", "0"])? == 10))?;
        let bus = node.json(["gpu", "describe", "0"])?["pci"].as_str().unwrap_or_default().to_owned();
        let there = Launch::new("there", XID).gpu("0").start(node, ["sleep", "600"])?;
        let elsewhere = Launch::new("elsewhere", XID).gpu("1").start(node, ["sleep", "600"])?;
        for run in [&there, &elsewhere] {
            // Registered it is before its process is in, and without one the next daemon would call it ended.
            wait_for("the run runs", || Ok(node.run(run.name())?["processes"].as_u64() > Some(0)))?;
        }
        node.kill9()?;
        let now = kernel_time_us()?;
        let mut out = fs::OpenOptions::new().append(true).open(&log)?;
        let line = format!("4,2,{},-;NVRM: Xid (PCI:{bus}): 95, pid=1, name=x\n", now);
        std::io::Write::write_all(&mut out, line.as_bytes())?;
        node.restart()?;
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "xid")?;
        ensure!(decision["run"] == there.id(), "{decision}");
        wait_for("the run is frozen", || Ok(node.run("there")?["state"] == "frozen"))?;
        ensure!(node.run("elsewhere")?["state"] == "running");
        ensure!(node.code(&["node", "health", "--gpu", "0"])? == 12);
        ensure!(count(node, Some("0"), "xid-95")? == Some(1), "{}", reasons(node, Some("0"))?);
        ensure!(count(node, None, "nic-slot-power")? == Some(1), "{}", reasons(node, None)?);
        // What has been read is not read again, whether the daemon is stopped or killed.
        node.stop()?;
        node.restart()?;
        let line = format!("4,3,{},-;NVRM: Xid (PCI:{bus}): 48, pid=1, name=x\n", now + 1);
        std::io::Write::write_all(&mut out, line.as_bytes())?;
        wait_for("a later line", || Ok(count(node, Some("0"), "xid-48")? == Some(1)))?;
        node.kill9()?;
        node.restart()?;
        wait_for("the GPUs are seen", || Ok(node.code(&["node", "health", "--gpu", "1"])? == 10))?;
        ensure!(count(node, Some("0"), "xid-95")? == Some(1), "{}", reasons(node, Some("0"))?);
        ensure!(count(node, Some("0"), "xid-48")? == Some(1), "{}", reasons(node, Some("0"))?);
        ensure!(count(node, None, "nic-slot-power")? == Some(1), "{}", reasons(node, None)?);
        node.log_is_whole()
    })
}

#[test]
fn a_record_is_judged_by_the_severity_and_the_number_that_it_states() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("kmsg");
    fs::write(&log, "")?;
    let tables = format!("[kernel_log]\npath = {:?}\n", log.display().to_string());
    on_gpu_node("kmsg-severity", TWO_GPUS, &tables, |node| {
        wait_for("the node is healthy", || Ok(node.code(&["node", "health"])? == 0))?;
        let bus = |gpu: &str| -> Result<String> {
            Ok(node.json(["gpu", "describe", gpu])?["pci"].as_str().unwrap_or_default().to_owned())
        };
        let (first, second) = (bus("0")?, bus("1")?);
        let now = kernel_time_us()?;
        let mut sequence = 0;
        let mut write = |records: &[String]| -> Result<()> {
            let mut out = fs::OpenOptions::new().append(true).open(&log)?;
            for record in records {
                sequence += 1;
                std::io::Write::write_all(&mut out, format!("3,{sequence},{now},-;{record}\n").as_bytes())?;
            }
            Ok(())
        };
        let reasons = |of: &str| -> Result<Vec<(String, String)>> {
            let health = node.ctl(["node", "health", "-o", "json"])?.json()?;
            let part = match of {
                "node" => &health["node"],
                gpu => &health["gpus"][gpu.parse::<usize>()?],
            };
            let text = |reason: &Value, field: &str| reason[field].as_str().unwrap_or_default().to_owned();
            let reasons = part["reasons"].as_array().cloned().unwrap_or_default();
            Ok(reasons.iter().map(|reason| (text(reason, "code"), text(reason, "advice"))).collect())
        };
        // The last record marks that all before it were read.
        let link = "XC0 i0 Link 00";
        write(&[
            format!("NVRM: Xid (PCI:{first}): 145, RLW_RSPCOL Nonfatal {link} (0x00000005 0x00000001 0x00000000)"),
            format!("pcieport {second}: pciehp: Slot(12): Link Down/Up ignored (recovered by DPC)"),
            "EDAC MC0: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0".to_owned(),
        ])?;
        wait_for("the number in the record counts", || {
            Ok(reasons("node")? == [("memory-corrected".to_owned(), "inspect-hardware".to_owned())])
        })?;
        ensure!(reasons("0")?.is_empty() && reasons("1")?.is_empty(), "{:?} {:?}", reasons("0")?, reasons("1")?);
        write(&[
            format!("NVRM: Xid (PCI:{first}): 145, RLW_SRC_TRACK Fatal {link} (0x00000007 0x00000001 0x00000000)"),
            format!(
                "NVRM: Xid (PCI:{second}): 154, pid=1, name=x, GPU recovery action changed from 0x0 (None) to 0x2 (Node \
                 Reboot Required)"
            ),
        ])?;
        let unhealthy = |code: &str, advice: &str| vec![(code.to_owned(), advice.to_owned())];
        wait_for("a fatal NVLink error asks for a reset", || Ok(reasons("0")? == unhealthy("xid-145", "reset-gpu")))?;
        wait_for("the recovery action of the record counts", || {
            Ok(reasons("1")? == unhealthy("recovery-action", "reboot-node"))
        })?;
        ensure!(node.code(&["node", "health"])? == 12, "both GPUs are unhealthy");
        Ok(())
    })
}
