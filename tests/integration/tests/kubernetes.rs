//! The plugin of node-problem-detector and the manifests for Kubernetes: what can be shown without a cluster.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, Node, on_node, program, skip, wait_for};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The version of Kubernetes that docs/kubernetes.md names.
const VERSION: &str = "1.34.0";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/kubernetes").join(name)
}

fn text(name: &str) -> Result<String> {
    fs::read_to_string(file(name)).with_context(|| format!("reading {name}"))
}

/// The plugin with a failsafectl that ends with this code and prints this text.
fn plugin(argument: &str, code: i32, answer: &str) -> Result<(CommandOutput, String)> {
    let root = TempDir::with_prefix("failsafe-it-npd-")?;
    let bin = root.path().join("usr/lib/failsafe/bin");
    fs::create_dir_all(&bin)?;
    let (fake, calls) = (bin.join("failsafectl"), root.path().join("calls"));
    fs::write(root.path().join("answer"), answer)?;
    let script =
        format!("#!/bin/sh\necho \"$@\" > {}\ncat {}/answer\nexit {code}\n", calls.display(), root.path().display());
    fs::write(&fake, script)?;
    fs::set_permissions(&fake, Permissions::from_mode(0o755))?;
    let mut command = Command::new(file("failsafe-plugin.sh"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("FAILSAFE_ROOT", root.path()).arg(argument);
    Ok((CommandOutput::of(&mut command)?, fs::read_to_string(calls).unwrap_or_default()))
}

#[test]
fn the_plugin_turns_each_answer_into_an_exit_code_of_node_problem_detector() -> Result<()> {
    for (argument, code, expected) in [
        ("unhealthy", 0, 0),
        ("unhealthy", 11, 1),
        ("unhealthy", 12, 1),
        ("degraded", 10, 1),
        ("unhealthy", 13, 2),
        ("unhealthy", 1, 2),
        ("unhealthy", 2, 2),
        ("unhealthy", 127, 2),
        ("unhealthy", 137, 2),
        ("other", 0, 2),
        ("", 0, 2),
    ] {
        let (output, calls) = plugin(argument, code, "the reason\nmore lines\n")?;
        ensure!(output.code == expected, "{argument} {code}: {output:?}");
        ensure!(output.out.lines().count() == 1 && !output.out.contains("more"), "one line is the message: {output:?}");
        let asked = match argument {
            "unhealthy" => "node health --wait 8s --accept-degraded\n",
            "degraded" => "node health --wait 8s\n",
            _ => "",
        };
        ensure!(calls == asked, "{argument}: {calls}");
    }
    Ok(())
}

#[test]
fn the_plugin_reports_that_failsafectl_is_not_installed() -> Result<()> {
    let root = TempDir::with_prefix("failsafe-it-npd-")?;
    let mut command = Command::new(file("failsafe-plugin.sh"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("FAILSAFE_ROOT", root.path()).arg("unhealthy");
    let output = CommandOutput::of(&mut command)?.expect(2)?;
    ensure!(output.out.contains("usr/lib/failsafe/bin/failsafectl is not installed on the node"), "{output:?}");
    Ok(())
}

#[test]
fn the_plugin_reports_a_cordoned_node_and_a_daemon_that_does_not_answer() -> Result<()> {
    on_node("npd", "", |node: &mut Node| {
        let folder = program("failsafectl")?.parent().context("no folder")?.display().to_string();
        let socket = node.socket();
        let ask = || {
            let mut command = Command::new(file("failsafe-plugin.sh"));
            command.arg("unhealthy").env("PATH", format!("{folder}:/usr/bin:/bin")).env("FAILSAFE_SOCKET", &socket);
            CommandOutput::of(&mut command)
        };
        wait_for("the node is healthy", || Ok(ask()?.code == 0))?;
        node.ctl(["node", "cordon", "--reason", "fan"])?.expect(0)?;
        let output = ask()?.expect(1)?;
        ensure!(output.out.starts_with("draining") && output.out.contains("fan"), "{output:?}");
        node.stop()?;
        ask()?.expect(2).map(|_| ())
    })
}

#[test]
fn the_manifests_name_the_same_files_accounts_and_conditions() -> Result<()> {
    let plugin: Value = serde_json::from_str(&text("failsafe-plugin.json")?)?;
    let conditions: Vec<&str> =
        plugin["conditions"].as_array().context("conditions")?.iter().filter_map(|it| it["type"].as_str()).collect();
    let (daemonset, rbac, taint) = (text("daemonset.yaml")?, text("rbac.yaml")?, text("taint-rule.yaml")?);
    for rule in plugin["rules"].as_array().context("rules")? {
        ensure!(conditions.contains(&rule["condition"].as_str().unwrap_or_default()), "{rule}");
        ensure!(rule["path"] == "/config/plugin/failsafe-plugin.sh", "{rule}");
        ensure!(rule["timeout"] == "15s", "the plugin ends its call after 13 s: {rule}");
    }
    ensure!(daemonset.contains("--config.custom-plugin-monitor=/config/failsafe-plugin.json"));
    for item in ["path: failsafe-plugin.json", "path: plugin/failsafe-plugin.sh", "name: failsafe-plugin\n"] {
        ensure!(daemonset.contains(item), "{item}");
    }
    // A file that is mounted stays the old one when an upgrade replaces it.
    ensure!(!daemonset.contains("type: File"), "a file of the host is mounted: {daemonset}");
    // A folder of its own: the programs of the host are no business of the pod. The package fills it.
    ensure!(daemonset.contains("mountPath: /host/usr/lib/failsafe/bin\n"), "{daemonset}");
    ensure!(
        daemonset.contains("            path: /usr/lib/failsafe/bin\n            type: Directory\n"),
        "{daemonset}"
    );
    ensure!(!daemonset.contains("path: /usr/bin"), "{daemonset}");
    let package = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../daemon/Cargo.toml"))?;
    let asset = "[\"target/release/failsafectl\", \"usr/lib/failsafe/bin/\", \"755\"]";
    ensure!(package.contains(asset), "the package lacks {asset}");
    ensure!(daemonset.contains("serviceAccountName: failsafe-node-problem-detector"));
    ensure!(rbac.matches("name: failsafe-node-problem-detector").count() == 3, "{rbac}");
    ensure!(conditions.iter().any(|condition| taint.contains(&format!("type: {condition}\n"))), "{taint}");
    Ok(())
}

#[test]
fn the_manifests_have_the_schemas_of_kubernetes() -> Result<()> {
    let target = program("failsafectl")?.parent().and_then(Path::parent).context("no target")?.to_owned();
    let validate = target.join("kubernetes-validate/bin/kubernetes-validate");
    if !validate.is_file() {
        skip("kubernetes-validate is not installed (`cargo xtask test` gets it from PyPI)");
        return Ok(());
    }
    let judge = |path: &Path| {
        CommandOutput::of(Command::new(&validate).args(["--kubernetes-version", VERSION, "--strict"]).arg(path))
    };
    for name in ["rbac.yaml", "daemonset.yaml", "device-taint-rule.yaml"] {
        let output = judge(&file(name))?.expect(0)?;
        ensure!(output.out.contains("passed") || output.err.contains("passed"), "no schema was found: {output:?}");
    }
    // A manifest that is wrong is refused, so this test can fail.
    let folder = TempDir::with_prefix("failsafe-it-manifest-")?;
    let wrong = folder.path().join("daemonset.yaml");
    fs::write(&wrong, text("daemonset.yaml")?.replace("hostPath:", "hostpath:"))?;
    ensure!(judge(&wrong)?.code != 0, "a misspelled field was accepted");
    Ok(())
}

#[test]
fn shellcheck_finds_nothing_in_the_plugin_for_kubernetes() -> Result<()> {
    if Command::new("shellcheck").arg("--version").output().is_err() {
        skip("shellcheck is not installed (Debian: shellcheck)");
        return Ok(());
    }
    let output = CommandOutput::of(Command::new("shellcheck").arg(file("failsafe-plugin.sh")))?;
    ensure!(output.code == 0, "{}{}", output.out, output.err);
    Ok(())
}
