//! Rules of discovery, and the node, that only observe.

use crate::site::{SLURM, Site, in_cgroup, run_of};
use anyhow::{Result, ensure};
use integration::{NOBODY, frozen, on_node, program, wait_for};
use std::{fs, path::Path, process::Child};

/// A process of a cgroup that tries a forbidden connect again and again, and writes what came of it.
fn trying(cgroup: &Path, out: &Path) -> Result<Child> {
    let sender = program("sender")?.display().to_string();
    let once = format!("{sender} --to 127.77.0.9:9 --how tcp --count 1 2>&1");
    in_cgroup(cgroup, NOBODY, &format!("sh -c 'while true; do {once}; sleep 0.2; done' > {}", out.display()))
}

fn wait_for_output(out: &Path, what: &str) -> Result<()> {
    let before = fs::read_to_string(out)?.len();
    wait_for(&format!("its output has {what}"), || {
        Ok(fs::read_to_string(out)?.get(before..).is_some_and(|new| new.contains(what)))
    })
}

#[test]
fn a_rule_that_observes_records_and_refuses_nothing_until_it_enforces() -> Result<()> {
    let site = Site::new()?;
    let rules = format!("{SLURM}mode = \"observe\"\n");
    on_node("disc-observe", &site.settings("", &rules), |node| {
        let user = site.make("system.slice/slurmstepd.scope/job_9/step_0/user")?;
        let run = run_of(node, &user)?;
        ensure!(run["observed"] == true, "{run}");
        let out = node.file("out");
        let mut child = trying(&user, &out)?;
        let decided = node.wait_for_event("an observed decision", |e| e["kind"] == "decision")?;
        ensure!(decided["body"]["decision"]["mode"] == "observe", "{decided}");
        let verdict = &decided["body"]["decision"]["values"][0]["value"]["Event"]["Net"]["verdict"];
        ensure!(verdict == "WouldDeny", "{decided}");
        wait_for_output(&out, "ECONNREFUSED")?;
        ensure!(!fs::read_to_string(&out)?.contains("EPERM") && !frozen(&user)?, "something was refused");
        let would = node.json(["stats", "--would"])?;
        let rule = &would["rules"][0];
        ensure!(rule["rule"] == "leaves" && rule["policy"] == "closed v2", "{would}");
        ensure!(rule["runs"][0]["name"] == "slurm-9.0" && rule["times"].as_u64() > Some(0), "{would}");
        ensure!(node.ctl(["stats", "--would", "--offline"])?.expect(0)?.out.contains("leaves"));
        // An operator acts all the same.
        node.ctl(["freeze", "slurm-9.0", "--reason", "drill"])?.expect(0)?;
        ensure!(frozen(&user)?, "an operator froze it");
        node.ctl(["thaw", "slurm-9.0", "--reason", "drill"])?.expect(0)?;

        // Switching to enforce is one line and a restart.
        let config = fs::read_to_string(node.file("failsafed.toml"))?;
        fs::write(node.file("failsafed.toml"), config.replace("mode = \"observe\"", "mode = \"enforce\""))?;
        node.stop()?;
        node.restart()?;
        ensure!(run_of(node, &user)?["observed"] == false, "it is enforced");
        wait_for("it is frozen", || frozen(&user))?;
        fs::write(user.join("cgroup.kill"), "1")?;
        child.wait()?;
        node.ctl(["replay", "slurm-9.0"])?.expect(0)?;
        node.log_is_whole()
    })
}

#[test]
fn an_order_to_observe_holds_for_its_time_over_a_restart_and_ends_by_itself() -> Result<()> {
    let site = Site::new()?;
    on_node("mode", &site.settings("", SLURM), |node| {
        let user = site.make("system.slice/slurmstepd.scope/job_9/step_0/user")?;
        run_of(node, &user)?;
        node.ctl_as(NOBODY, ["mode", "observe", "--for", "1h", "--reason", "x"])?.expect(4)?;
        node.ctl(["mode", "observe", "--for", "30d", "--reason", "x"])?.expect(2)?;
        node.ctl(["mode", "observe", "--for", "1h"])?.expect(2)?;
        let set = node.json(["mode", "observe", "--for", "1h", "--reason", "false alarms"])?;
        ensure!(set["mode"] == "observe" && set["configured"] == "enforce" && set["runs"] == 1, "{set}");
        ensure!(set["failed"].as_array().is_some_and(Vec::is_empty), "{set}");
        let out = node.file("out");
        let mut child = trying(&user, &out)?;
        node.wait_for_event("an observed decision", |e| e["body"]["decision"]["mode"] == "observe")?;
        wait_for_output(&out, "ECONNREFUSED")?;
        node.kill9()?;
        node.restart()?;
        ensure!(node.json(["mode", "show"])?["mode"] == "observe", "it does not survive a restart");
        wait_for_output(&out, "ECONNREFUSED")?;
        ensure!(!frozen(&user)? && !fs::read_to_string(&out)?.contains("EPERM"), "something was refused");
        ensure!(node.ctl(["node", "status"])?.out.contains("OBSERVES"), "node status does not show it");
        node.json(["mode", "observe", "--for", "2s", "--reason", "not for long"])?;
        wait_for("it is over", || Ok(node.json(["mode", "show"])?["mode"] == "enforce"))?;
        wait_for("it is frozen", || frozen(&user))?;
        ensure!(fs::read_to_string(&out)?.contains("EPERM") || frozen(&user)?, "the kernel refuses again");
        let over = node.wait_for_event("its end", |e| {
            e["body"]["type"] == "mode" && e["body"]["mode"] == "enforce" && e["body"]["actor"] == "daemon"
        })?;
        ensure!(over["kind"] == "order" && over["body"]["runs"] == 1, "{over}");
        node.wait_for_event("who gave it", |e| {
            e["body"]["type"] == "mode"
                && e["body"]["reason"] == "false alarms"
                && e["body"]["actor"]["local"]["uid"] == 0
        })?;
        fs::write(user.join("cgroup.kill"), "1")?;
        child.wait()?;
        node.log_is_whole()
    })
}
