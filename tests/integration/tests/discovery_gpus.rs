//! GPUs of discovered runs: nobody declares them. The GPUs are simulated; the device files have their major number and no driver.

use anyhow::{Context, Result, ensure};
use integration::{Node, TestCgroup, on_node, program, wait_for, wait_for_some};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const HOT: &str = r#"
[policy]
name = "hot"
version = 1
owner = "node-operations@example.org"

[[rule]]
id = "too-hot"
rationale = "a card above 90 C has lost its cooling"
when = { signal = "gpu.temperature", above = "90 C", clear = "80 C" }
actions = ["freeze", "notify"]
"#;

/// A node with two GPUs, the second of which is hot, that makes runs of the steps of Slurm below a cgroup of its own.
struct Site {
    root: TestCgroup,
    folder: TempDir,
}

impl Site {
    fn new(name: &str) -> Result<Site> {
        let folder = tempfile::Builder::new().prefix("failsafe-it-disc-gpu-").tempdir()?;
        let policies = folder.path().join("policies");
        fs::create_dir(&policies)?;
        for (path, mode) in [(folder.path(), 0o755), (&policies, 0o755)] {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        let policy = policies.join("hot.toml");
        fs::write(&policy, HOT)?;
        fs::set_permissions(&policy, Permissions::from_mode(0o644))?;
        Ok(Site { root: TestCgroup::new(name)?, folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the node, whose second GPU has a process with the number in the file `user.pid`.
    fn run(&self, test: &str, check: impl FnOnce(&mut Node) -> Result<()>) -> Result<()> {
        let gpu = |temperature: u32| {
            format!(
                "[[gpu]]\nmodel = \"H100\"\ntemperature = {temperature}\npower = 300\nutilization = 0\n\
                 memory_used = \"1 GiB\"\n"
            )
        };
        let user = self.file("user.pid").display().to_string();
        let process = format!("[[gpu.process]]\npid_file = {user:?}\nmemory = \"1 GiB\"\nweight = 1\n");
        fs::write(self.file("scenario.toml"), gpu(60) + &gpu(95) + &process)?;
        let (scenario, policies) = (self.file("scenario.toml"), self.file("policies").display().to_string());
        let library = program("libnvidia_ml.so")?.display().to_string();
        let root = self.root.path().file_name().unwrap_or_default().display().to_string();
        let settings = format!(
            "#! FAILSAFE_NVML_SCENARIO={}\npolicy_dir = {policies:?}\n\n[nvml]\nlibrary = {library:?}\n\n[discovery]\n\
             root = {root:?}\nrescan_s = 1\n\n[[discover]]\nname = \"slurm\"\npreset = \"slurm\"\npolicy = \"hot\"\n",
            scenario.display()
        );
        on_node(test, &settings, check)
    }

    /// A process of a step that Slurm gave the GPU with index 1.
    fn step(&self, job: u32, script: &str) -> Result<(PathBuf, Child)> {
        let cgroup = self.root.path().join(format!("system.slice/slurmstepd.scope/job_{job}/step_0/user"));
        fs::create_dir_all(&cgroup)?;
        let script = format!("echo $$ > {}/cgroup.procs && {script}", cgroup.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).env("SLURM_JOB_GPUS", "1").stdin(Stdio::null());
        Ok((cgroup, command.spawn()?))
    }
}

/// The run of a cgroup, once it is `as_wanted`.
fn run_of(node: &Node, cgroup: &Path, what: &str, as_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let path = cgroup.strip_prefix(node.mount())?.display().to_string();
    wait_for_some(what, || {
        let all = node.json(["list"])?;
        let all = all.as_array().context("a list")?;
        let found = all.iter().find(|run| run["cgroup"] == path.as_str() && run["state"] != "ended");
        Ok(found.filter(|run| as_wanted(run)).cloned())
    })
}

/// The UUIDs of both GPUs, once the driver names them.
fn gpus(node: &Node) -> Result<(String, String)> {
    wait_for_some("both GPUs are seen", || {
        let status = node.json(["node", "status"])?;
        let uuid = |index: u64| {
            let all = status["gpus"].as_array()?;
            Some(all.iter().find(|gpu| gpu["index"] == index)?["uuid"].as_str()?.to_owned())
        };
        Ok(uuid(0).zip(uuid(1)))
    })
}

#[test]
fn a_discovered_run_gets_the_gpu_that_its_process_uses_and_its_rules_see_it() -> Result<()> {
    let site = Site::new("disc-gpu-used")?;
    site.run("disc-gpu-used", |node| {
        let (_, hot) = gpus(node)?;
        let script = format!("echo $$ > {} && exec sleep 600", site.file("user.pid").display());
        let (cgroup, mut process) = site.step(7, &script)?;
        let checked = (|| {
            let run = run_of(node, &cgroup, "its GPU is known", |run| run["gpus"] == serde_json::json!([hot]))?;
            ensure!(run["found_gpus"][0]["by"] == "process", "{run}");
            let id = run["id"].as_str().context("an id")?;
            let entry = node.wait_for_event("the entry", |entry| entry["body"]["type"] == "run-gpus")?;
            ensure!(entry["run"] == id && entry["body"]["found"][0]["gpu"] == hot.as_str(), "{entry}");
            let name = run["name"].as_str().context("a name")?;
            wait_for("the rule on the GPU's signal freezes the run", || {
                Ok(node.run(name)?["state"].as_str().is_some_and(|state| ["frozen", "partial"].contains(&state)))
            })?;
            let listed = node.json(["discover", "list"])?;
            ensure!(listed["cgroups"][0]["gpus"] == serde_json::json!([hot]), "{listed}");
            let page = node.ctl(["describe", name])?.expect(0)?.out;
            ensure!(page.contains("(used, first seen: pid "), "{page}");
            let events = node.ctl(["events", "--run", name])?.expect(0)?.out;
            ensure!(events.contains(&format!("GPUs of the run: {hot} (used by pid ")), "{events}");
            ensure!(node.ctl(["replay", name])?.expect(0)?.out.contains("identical"));
            node.log_is_whole()
        })();
        process.kill()?;
        process.wait()?;
        checked
    })
}

#[test]
fn a_gpu_that_a_process_has_open_is_the_runs_until_it_is_known_which_it_uses() -> Result<()> {
    let site = Site::new("disc-gpu-open")?;
    site.run("disc-gpu-open", |node| {
        let (cool, hot) = gpus(node)?;
        // The device files are those of the process alone, and there is no driver behind them.
        let open = "import os, time; os.open('/dev/nvidia0', os.O_PATH); time.sleep(600)";
        let script = format!(
            "mount -t tmpfs none /dev && mknod /dev/nvidia0 c 195 0 && exec python3 -c \"{open}\" < /proc/version"
        );
        let (cgroup, mut process) = site.step(8, &script)?;
        let checked = (|| {
            let run = run_of(node, &cgroup, "its environment is read", |run| !run["claimed_gpus"].is_null())?;
            let claimed = &run["claimed_gpus"];
            ensure!(claimed["variable"] == "SLURM_JOB_GPUS" && claimed["value"] == "1", "{claimed}");
            ensure!(claimed["gpus"] == serde_json::json!([hot]), "{claimed}");
            let run = run_of(node, &cgroup, "what it has open is known", |run| run["found_gpus"][0]["by"] == "open")?;
            // Not what it claims.
            ensure!(run["gpus"] == serde_json::json!([cool]) && run["state"] == "running", "{run}");
            let page = node.ctl(["describe", run["name"].as_str().context("a name")?])?.expect(0)?.out;
            ensure!(page.contains("(open, first seen: pid ") && page.contains("SLURM_JOB_GPUS=1 of pid "), "{page}");
            fs::write(site.file("user.pid"), process.id().to_string())?;
            let used = serde_json::json!([hot]);
            run_of(node, &cgroup, "the GPU that it uses is known", |run| run["gpus"] == used)?;
            node.wait_for_event("the entry", |entry| {
                let body = &entry["body"];
                body["type"] == "run-gpus" && body["removed"][0] == cool.as_str() && body["found"][0]["by"] == "process"
            })?;
            node.log_is_whole()
        })();
        process.kill()?;
        process.wait()?;
        checked
    })
}

#[test]
fn a_gpu_of_an_open_file_is_found_under_any_name_and_withdrawn_when_the_file_is_closed() -> Result<()> {
    let site = Site::new("disc-gpu-closed")?;
    site.run("disc-gpu-closed", |node| {
        let (cool, _) = gpus(node)?;
        let close = site.file("close");
        let open = format!(
            "import os, time; fd = os.open('/dev/other', os.O_PATH)\nwhile not os.path.exists('{0}'): time.sleep(0.1)\n\
             os.close(fd); time.sleep(600)",
            close.display()
        );
        let script = format!(
            "mount -t tmpfs none /dev && mknod /dev/nvidia0 c 195 0 && touch /dev/other && \
             mount --bind /dev/nvidia0 /dev/other && exec python3 -c \"{open}\" < /proc/version"
        );
        let (cgroup, mut process) = site.step(9, &script)?;
        let checked = (|| {
            let run = run_of(node, &cgroup, "what it has open is known", |run| run["found_gpus"][0]["by"] == "open")?;
            ensure!(run["gpus"] == serde_json::json!([cool]), "{run}");
            let checks = node.ctl(["doctor"])?.out;
            ensure!(checks.contains("open device files are looked for"), "{checks}");
            fs::write(&close, "")?;
            let none = serde_json::json!([]);
            run_of(node, &cgroup, "it has no GPU any more", |run| run["gpus"] == none && run["found_gpus"] == none)?;
            node.wait_for_event("the entry", |entry| {
                let body = &entry["body"];
                body["type"] == "run-gpus" && body["removed"][0] == cool.as_str() && body["found"] == none
            })?;
            let name = run["name"].as_str().context("a name")?;
            ensure!(node.ctl(["replay", name])?.expect(0)?.out.contains("identical"));
            node.log_is_whole()
        })();
        process.kill()?;
        process.wait()?;
        checked
    })
}
