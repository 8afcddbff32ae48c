//! Runs: whose they are, how they are named, how they end, and who may adopt what.

use anyhow::{Result, ensure};
use integration::{Launch, NOBODY, TestCgroup, on_node, wait_for};
use std::process::Command;

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

#[test]
fn a_command_runs_as_the_callers_user_in_its_own_cgroup_and_its_exit_code_is_passed_on() -> Result<()> {
    on_node("own-cgroup", "", |node| {
        let script =
            "id -u; sed -n 's/^0:://p' /proc/self/cgroup; echo $FAILSAFE_RUN_ID; read _ < /proc/self/comm; exit 42";
        let mut run = Launch::new("first", PLAIN).called_by(NOBODY).start(node, ["sh", "-c", script])?;
        let status = run.ends()?;
        ensure!(status.code() == Some(42), "{status}: {}", run.errors());
        let listed = node.run("first")?;
        let said: Vec<String> = run.output().lines().map(str::to_owned).collect();
        let cgroup = format!("/{}", listed["cgroup"].as_str().unwrap_or_default());
        ensure!(said == [NOBODY.to_string(), cgroup.clone(), run.id().to_owned()], "{said:?}, cgroup {cgroup}");
        ensure!(listed["owner_uid"] == NOBODY, "{listed}");
        Ok(())
    })
}

#[test]
fn a_run_ends_when_its_cgroup_empties_and_its_record_stays() -> Result<()> {
    on_node("ends", "", |node| {
        // The first process ends, its child lives on in a cgroup made later inside the run.
        let script = "mkdir /proc/self/none 2>/dev/null; (sleep 0.4; echo child ended) & exit 0";
        let mut run = Launch::new("short", PLAIN).start(node, ["sh", "-c", script])?;
        ensure!(run.ends()?.success());
        ensure!(node.run("short")?["state"] == "running", "it ended with its first process: {}", node.run("short")?);
        wait_for("the run has ended", || Ok(node.run("short")?["state"] == "ended"))?;
        ensure!(run.output().contains("child ended"), "it was ended before its last process");
        ensure!(node.json(["list"])?.as_array().is_some_and(Vec::is_empty), "an ended run is listed as live");
        let all = node.json(["list", "--all"])?;
        ensure!(all[0]["name"] == "short" && all[0]["ended_ns"].as_i64() > all[0]["registered_ns"].as_i64(), "{all}");
        wait_for("its cgroup is removed", || Ok(!run.cgroup().exists()))?;
        node.wait_for_event("the run's end", |e| e["body"]["type"] == "run-ended" && e["run"] == run.id())?;
        node.log_is_whole()
    })
}

#[test]
fn names_are_unique_among_live_runs_and_prefixes_are_understood() -> Result<()> {
    on_node("names", "", |node| {
        let mut first = Launch::new("alpha-one", PLAIN).start(node, ["sleep", "60"])?;
        let _second = Launch::new("alpha-two", PLAIN).start(node, ["sleep", "60"])?;
        let policy = node.policy("again", PLAIN)?;
        let policy = policy.display().to_string();
        let again = node.ctl(["run", "-p", &policy, "-n", "alpha-one", "--user", "nobody", "--", "true"])?.expect(1)?;
        ensure!(again.err.contains("alpha-one"), "{}", again.err);
        ensure!(node.run("alpha-o")?["id"] == first.id(), "a prefix of the name");
        let (head, _) = first.id().split_at(36 - 4);
        ensure!(node.run(first.id())?["name"] == "alpha-one", "the id");
        ensure!(node.run(head)?["name"] == "alpha-one", "a prefix of the id");
        let both = node.ctl(["describe", "alpha"])?.expect(2)?;
        ensure!(both.err.contains("alpha-one") && both.err.contains("alpha-two"), "{}", both.err);
        node.ctl(["describe", "beta"])?.expect(6)?;
        node.ctl(["kill", "alpha-one", "--reason", "its name is wanted"])?.expect(0)?;
        first.ends()?;
        wait_for("the name is free", || Ok(node.run("alpha-one")?["state"] == "ended"))?;
        let reused = Launch::new("alpha-one", PLAIN).start(node, ["sleep", "60"])?;
        ensure!(node.run("alpha-one")?["id"] == reused.id(), "a live run comes before an ended one of its name");
        Ok(())
    })
}

#[test]
fn root_has_to_say_whom_a_command_is_to_run_as() -> Result<()> {
    on_node("plain-root", "", |node| {
        let policy = node.policy("p", PLAIN)?.display().to_string();
        let refused = node.ctl(["run", "-p", &policy, "--", "true"])?.expect(2)?;
        ensure!(refused.err.contains("--user root"), "{}", refused.err);
        let other = node.ctl_as(NOBODY, ["run", "-p", &policy, "--user", "root", "--", "true"])?.expect(4)?;
        ensure!(other.err.contains("only root"), "{}", other.err);
        node.ctl(["run", "-p", &policy, "--user", "nobody", "--", "no-such-command-here"])?.expect(127)?;
        ensure!(node.json(["list", "--all"])?.as_array().is_some_and(Vec::is_empty), "a refusal left a run behind");
        let root = node.ctl(["run", "-p", &policy, "--user", "root", "--", "id", "-u"])?.expect(0)?;
        ensure!(root.out == "0\n", "{root:?}");
        Ok(())
    })
}

#[test]
fn a_cgroup_or_a_process_that_exists_is_adopted_and_left_in_place() -> Result<()> {
    on_node("register", "", |node| {
        let own = TestCgroup::new("adopted")?;
        let script = format!("echo $$ > {}/cgroup.procs && exec sleep 60", own.path().display());
        let mut sleeper = Command::new("sh").args(["-c", &script]).spawn()?;
        let done = (|| {
            wait_for("the process is in its cgroup", || Ok(!integration::members(own.path())?.is_empty()))?;
            let policy = node.policy("p", PLAIN)?.display().to_string();
            let path = own.path().display().to_string();
            let denied = node.ctl_as(NOBODY, ["register", "-p", &policy, "--cgroup", &path])?.expect(4)?;
            ensure!(denied.err.contains("register"), "{}", denied.err);
            let run = node.json(["register", "-p", &policy, "-n", "adopted", "--cgroup", &path])?;
            ensure!(run["owner_uid"] == 0 && path.ends_with(run["cgroup"].as_str().unwrap_or("?")), "{run}");
            let pid = sleeper.id().to_string();
            let twice = node.ctl(["register", "-p", &policy, "-n", "other", "--pid", &pid])?.expect(1)?;
            ensure!(twice.err.contains("overlaps"), "{}", twice.err);
            node.ctl(["freeze", "adopted", "--reason", "test"])?.expect(0)?;
            ensure!(integration::frozen(own.path())?, "not frozen");
            node.ctl(["kill", "adopted", "--reason", "test"])?.expect(0)?;
            sleeper.wait()?;
            wait_for("the run has ended", || Ok(node.run("adopted")?["state"] == "ended"))?;
            ensure!(own.path().exists(), "a cgroup that the daemon did not make was removed");
            ensure!(std::fs::read_to_string(own.path().join("cgroup.freeze"))? == "0\n", "left frozen after its run");
            Ok(())
        })();
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        done
    })
}
