//! A reset of a GPU: by whom, on what, and what else may happen meanwhile.

use anyhow::{Result, ensure};
use integration::{Launch, TWO_GPUS, on_gpu_node, wait_for};
use std::fs;

#[test]
fn a_gpu_is_reset_by_the_vendors_tool_and_not_while_anything_runs_on_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tool = folder.path().join("nvidia-smi");
    let (begun, go_on) = (folder.path().join("begun"), folder.path().join("go-on"));
    // Tells how the sampler that the daemon has meanwhile was started, and takes its time: at most 60 s.
    let script = format!(
        r#"#!/bin/sh
samplers() {{
    for p in /proc/[0-9]*; do
        args=$(tr '\0' ' ' < $p/cmdline 2>/dev/null) || continue
        case "$args" in *" nvml-sampler "*"--parent $PPID "*) echo "sampler: $args";; esac
    done
}}
n=0
while [ -z "$(samplers)" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
samplers
touch {}
n=0
while [ ! -e {} ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done
echo "GPU $3 was reset"
"#,
        begun.display(),
        go_on.display()
    );
    fs::write(&tool, script)?;
    fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let tables = format!("[gpu]\nnvidia_smi = {:?}\n", tool.display().to_string());
    on_gpu_node("reset", TWO_GPUS, &tables, |node| {
        wait_for("both GPUs are well", || Ok(node.code(&["node", "health"])? == 0))?;
        let policy = "[policy]\nname = \"p\"\nowner = \"o@example.org\"\n";
        let _holder = Launch::new("holder", policy).gpu("0").start(node, ["sleep", "600"])?;
        wait_for("the run holds it", || Ok(node.json(["node", "capacity"])?["held"] == 1))?;
        let refused = node.ctl(["gpu", "reset", "0", "-r", "xid 95"])?.expect(1)?;
        ensure!(refused.err.contains("held by run"), "{refused:?}");
        let mut reset = node.ctl_command(["gpu", "reset", "1", "-r", "xid 95"]);
        let reset = reset.stdout(std::process::Stdio::piped()).spawn()?;
        wait_for("the tool works", || Ok(begun.exists()))?;
        let file = node.policy("p", policy)?.display().to_string();
        let args = ["run", "-p", &file, "--gpu", "1", "--user", "nobody", "--", "true"];
        let refused = node.ctl(args)?.expect(1)?;
        ensure!(refused.err.contains("is being reset"), "{refused:?}");
        fs::write(&go_on, "")?;
        let done = reset.wait_with_output()?;
        let output = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success() && output.contains("GPU GPU-"), "{done:?}");
        ensure!(
            output.matches("sampler: ").count() == 1 && output.contains("--spare 1:"),
            "it was not let go of: {output}"
        );
        wait_for("it is seen again", || Ok(node.code(&["node", "health", "--gpu", "1"])? == 0))?;
        node.ctl(args)?.expect(0)?;
        node.wait_for_event("the reset on record", |e| e["body"]["type"] == "gpu-reset" && e["body"]["done"] == true)?;
        Ok(())
    })
}

#[test]
fn a_gpu_is_not_reset_while_nobody_knows_who_is_on_it() -> Result<()> {
    // The list of what draws is asked for seldom: unread, it is no proof that nobody does.
    let fault = "[[fault]]\nfunction = \"nvmlDeviceGetGraphicsRunningProcesses_v3\"\ngpu = 0\nerror = \"UNKNOWN\"\n";
    let tables = "[gpu]\nnvidia_smi = \"/bin/true\"\n";
    on_gpu_node("reset-unknown", &format!("{TWO_GPUS}{fault}"), tables, |node| {
        wait_for("the other GPU is well", || Ok(node.code(&["node", "health", "--gpu", "1"])? == 0))?;
        wait_for("what fails is told", || {
            Ok(node.json(["gpu", "describe", "0"])?["failing"].to_string().contains("gpu.processes: "))
        })?;
        let refused = node.ctl(["gpu", "reset", "0", "-r", "xid 95"])?.expect(1)?;
        ensure!(
            refused.err.contains("who is on it cannot be read") && refused.err.contains("not reset"),
            "{refused:?}"
        );
        node.ctl(["gpu", "reset", "1", "-r", "xid 95"])?.expect(0).map(drop)
    })
}
