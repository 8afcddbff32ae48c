//! A folder of cgroups as a scheduler makes them, with the policies and rules of discovery for it.

use anyhow::{Context, Result, ensure};
use integration::{Node, TestCgroup, wait_for_some};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Nothing may leave; a forbidden connect freezes the run.
pub const CLOSED: &str = r#"
[policy]
name = "closed"
version = 2
owner = "tests@example.org"
description = "nothing leaves"

[egress]
allow = [{ cidr = "192.0.2.1/32", ports = [1], protocol = "tcp" }]

[[rule]]
id = "leaves"
rationale = "nothing leaves in this test"
severity = "critical"
confidence = "high"
when = { event = "connect", verdict = "denied" }
actions = ["freeze", "notify"]
"#;

pub const SLURM: &str = "[[discover]]\nname = \"slurm\"\npreset = \"slurm\"\npolicy = \"closed\"\n";

/// What the daemon discovers: a cgroup as the root of patterns, and the folder of policies.
pub struct Site {
    pub root: TestCgroup,
    pub policies: TempDir,
}

impl Site {
    pub fn new() -> Result<Site> {
        let policies = tempfile::Builder::new().prefix("failsafe-it-policies-").tempdir()?;
        fs::set_permissions(policies.path(), Permissions::from_mode(0o755))?;
        let site = Site { root: TestCgroup::new("site")?, policies };
        site.policy("closed", CLOSED)?;
        Ok(site)
    }

    pub fn policy(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.policies.path().join(format!("{name}.toml"));
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(path)
    }

    pub fn settings(&self, more: &str, rules: &str) -> String {
        let root = self.root.path().file_name().unwrap_or_default().display().to_string();
        let policies = self.policies.path().display().to_string();
        format!("policy_dir = {policies:?}\n\n[discovery]\nroot = {root:?}\nrescan_s = 1\n{more}\n\n{rules}\n")
    }

    /// Makes a cgroup with all above it.
    pub fn make(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.path().join(path);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }
}

pub fn in_cgroup(cgroup: &Path, user: u32, command: &str) -> Result<Child> {
    let script = format!("echo $$ > {}/cgroup.procs && exec {command}", cgroup.display());
    let user = format!("setpriv --reuid={user} --regid={user} --clear-groups ");
    let script = script.replace("exec ", &format!("exec {user}"));
    let child = Command::new("sh").args(["-c", &script]).current_dir("/").stdin(Stdio::null()).spawn()?;
    Ok(child)
}

/// Waits for the live run of a cgroup.
pub fn run_of(node: &Node, cgroup: &Path) -> Result<Value> {
    let path = cgroup.strip_prefix(node.mount())?.display().to_string();
    wait_for_some(&format!("{path} is a run"), || {
        let all = node.json(["list"])?;
        let all = all.as_array().context("a list")?;
        Ok(all.iter().find(|run| run["cgroup"] == path.as_str() && run["state"] != "ended").cloned())
    })
}

pub fn refused(node: &Node, cgroup: &Path, why: &str) -> Result<()> {
    let path = cgroup.strip_prefix(node.mount())?.display().to_string();
    let found = wait_for_some(&format!("{path} is listed without a run"), || {
        let list = node.json(["discover", "list"])?;
        let all = list["cgroups"].as_array().context("a list")?.clone();
        Ok(all.into_iter().find(|found| found["path"] == path.as_str() && found["refused"] != ""))
    })?;
    ensure!(found["refused"].as_str().unwrap_or_default().contains(why), "{found}");
    Ok(())
}
