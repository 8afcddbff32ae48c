//! Runs: whose they are, how they are named, how they end, and who may adopt what.

use anyhow::{Context, Result, ensure};
use integration::{Caller, CommandOutput, Launch, NOBODY, TestCgroup, on_node, wait_for};
use std::{os::unix::process::CommandExt, process::Command};

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
        let output: Vec<String> = run.output().lines().map(str::to_owned).collect();
        let cgroup = format!("/{}", listed["cgroup"].as_str().unwrap_or_default());
        ensure!(output == [NOBODY.to_string(), cgroup.clone(), run.id().to_owned()], "{output:?}, cgroup {cgroup}");
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

/// `kill job-2`, which there never was, is not to reach `job-20`.
#[test]
fn a_command_that_acts_takes_an_exact_name_or_id_and_names_the_run() -> Result<()> {
    on_node("exact", "", |node| {
        let twenty = Launch::new("job-20", PLAIN).start(node, ["sleep", "600"])?;
        let (short, _) = twenty.id().split_at(13);
        for command in ["kill", "freeze", "thaw"] {
            for wanted in ["job-2", "j", short] {
                let refused = node.ctl([command, wanted, "--reason", "test"])?.expect(6)?;
                ensure!(refused.err.contains("exact") && refused.err.contains("job-20"), "{}", refused.err);
            }
        }
        ensure!(node.run("job-20")?["state"] == "running");
        let mut caller = Caller::new(node, 0)?;
        ensure!(caller.ask("control job-2 kill")?.starts_with("NotFound"));
        let frozen = node.ctl(["freeze", "job-20", "--reason", "test"])?.expect(0)?;
        ensure!(frozen.out.contains(&format!("job-20 {}", twenty.id())), "{}", frozen.out);
        let thawed = node.json(["thaw", twenty.id(), "--reason", "test"])?;
        ensure!(thawed["run_name"] == "job-20" && thawed["run_id"] == twenty.id(), "{thawed}");
        node.ctl(["kill", "job-20", "--reason", "test"])?.expect(0)?;
        wait_for("it has ended", || Ok(node.run("job-20")?["state"] == "ended"))?;
        let again = Launch::new("job-20", PLAIN).start(node, ["sleep", "600"])?;
        let killed = node.json(["kill", "job-20", "--reason", "test"])?;
        ensure!(killed["run_id"] == again.id(), "the live run of that name: {killed}");
        wait_for("it has ended too", || Ok(node.run(again.id())?["state"] == "ended"))?;
        let over = node.ctl(["kill", "job-20", "--reason", "test"])?.expect(1)?;
        ensure!(over.err.contains("has ended"), "{}", over.err);
        Ok(())
    })
}

#[test]
fn a_run_is_not_named_like_the_id_of_another() -> Result<()> {
    on_node("like-an-id", "", |node| {
        let victim = Launch::new("victim", PLAIN).start(node, ["sleep", "600"])?;
        let policy = node.policy("p", PLAIN)?.display().to_string();
        for length in [1, 4, 8, 13, 36] {
            let (name, _) = victim.id().split_at(length);
            let refused = node.ctl(["run", "-p", &policy, "-n", name, "--user", "nobody", "--", "true"])?.expect(2)?;
            ensure!(refused.err.contains("reads like the id"), "{name}: {}", refused.err);
        }
        ensure!(node.json(["list"])?.as_array().is_some_and(|runs| runs.len() == 1));
        Ok(())
    })
}

/// Whether others have a name is not to be seen; who sees several users' runs is never given one of them by chance.
#[test]
fn a_name_is_unique_among_the_runs_of_its_owner() -> Result<()> {
    on_node("by-owner", "", |node| {
        let theirs = Launch::new("train", PLAIN).called_by(NOBODY).start(node, ["sleep", "600"])?;
        let roots = Launch::new("train", PLAIN).user("root").start(node, ["sleep", "600"])?;
        let policy = node.policy("again", PLAIN)?.display().to_string();
        let own = node.ctl(["run", "-p", &policy, "-n", "train", "--user", "nobody", "--", "true"])?.expect(1)?;
        ensure!(own.err.contains("`train` already"), "{}", own.err);
        for command in [&["kill", "train", "--reason", "test"][..], &["describe", "train"]] {
            let refused = node.ctl(command)?.expect(2)?;
            let both = refused.err.contains(theirs.id()) && refused.err.contains(roots.id());
            ensure!(both && refused.err.contains("uid 65534"), "{command:?}: {}", refused.err);
        }
        let seen = CommandOutput::of(node.ctl_command(["describe", "train", "-o", "json"]).uid(NOBODY).gid(NOBODY))?;
        ensure!(seen.expect(0)?.json()?["id"] == theirs.id(), "the owner means its own");
        let frozen = node.ctl_as(NOBODY, ["freeze", "train", "--reason", "test"])?.expect(0)?;
        ensure!(frozen.out.contains(theirs.id()), "{}", frozen.out);
        let killed = node.json(["kill", "0/train", "--reason", "test"])?;
        ensure!(killed["run_id"] == roots.id() && node.run(theirs.id())?["state"] == "frozen", "{killed}");
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

#[test]
fn a_cgroup_that_its_processes_can_leave_is_registered_only_where_that_is_accepted_and_recorded() -> Result<()> {
    on_node("delegated", "", |node| {
        let top = TestCgroup::new("delegated")?;
        let run = top.path().join("run");
        std::fs::create_dir(&run)?;
        let mut sleeper = Command::new("sleep").arg("60").uid(NOBODY).gid(NOBODY).spawn()?;
        let done = (|| {
            std::fs::write(run.join("cgroup.procs"), sleeper.id().to_string())?;
            // What a user manager of systemd gives its user: the right to move processes within the subtree.
            std::os::unix::fs::chown(top.path().join("cgroup.procs"), Some(NOBODY), None)?;
            std::os::unix::fs::chown(&run, Some(NOBODY), None)?;
            let policy = node.policy("p", PLAIN)?.display().to_string();
            let path = run.display().to_string();
            let register = ["register", "-p", &policy, "-n", "left", "--cgroup", &path];
            let refused = node.ctl_as(NOBODY, register)?.expect(1)?;
            for part in [top.path().display().to_string(), format!("uid {NOBODY}"), "--accept-delegated".into()] {
                ensure!(refused.err.contains(&part), "{part}: {}", refused.err);
            }
            node.ctl_as(NOBODY, register.into_iter().chain(["--accept-delegated"]))?.expect(0)?;
            let gap = node.wait_for_event("the leak is on record", |e| {
                e["body"]["type"] == "gap" && e["body"]["what"].to_string().contains("which is delegated")
            })?;
            ensure!(gap["body"]["what"].to_string().contains(&format!("uid {NOBODY}")), "{gap}");
            node.ctl(["kill", "left", "--reason", "test"])?.expect(0)?;
            Ok(())
        })();
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        done
    })
}

/// A slice of root that holds only one user's processes now gets others' later: the run of that user would bound them.
#[test]
fn a_user_cannot_register_a_cgroup_into_which_processes_of_others_can_be_placed() -> Result<()> {
    on_node("registrable", "", |node| {
        let top = TestCgroup::new("registrable")?;
        let mut sleeper = Command::new("sleep").arg("600").uid(NOBODY).gid(NOBODY).spawn()?;
        let done = (|| {
            let policy = node.policy("p", PLAIN)?.display().to_string();
            let with_sleeper = |below: &str| -> Result<std::path::PathBuf> {
                let path = top.path().join(below);
                std::fs::create_dir_all(&path)?;
                std::fs::write(path.join("cgroup.procs"), sleeper.id().to_string())?;
                Ok(path)
            };
            let register = |cgroup: &std::path::Path, name: &str| {
                let cgroup = cgroup.display().to_string();
                node.ctl_as(NOBODY, ["register", "-p", &policy, "-n", name, "--cgroup", &cgroup])
            };
            std::fs::create_dir_all(top.path().join("inner.scope/below"))?;
            for (refused, why) in [
                ("tenant.slice", "it is a systemd slice"),
                ("user-0.slice/session-1.scope", "which is another user's"),
                ("login.service", "it is a systemd service"),
                ("plain", "does not show that it is made for one job"),
                ("inner.scope", "has cgroups below it"),
            ] {
                let denied = register(&with_sleeper(refused)?, "taken")?.expect(4)?;
                for part in [why, "failsafectl run", "administrators' group"] {
                    ensure!(denied.err.contains(part), "{refused}: {}", denied.err);
                }
            }
            // With a level of root inside, a cgroup of the user's own is no better.
            let own = top.path().join("own");
            std::fs::create_dir_all(own.join("roots"))?;
            std::os::unix::fs::chown(&own, Some(NOBODY), None)?;
            let denied = register(&with_sleeper("own")?, "taken")?.expect(4)?;
            ensure!(denied.err.contains("roots below it belongs to uid 0"), "{}", denied.err);
            ensure!(node.json(["list"])?.as_array().is_some_and(Vec::is_empty), "a refused cgroup became a run");
            std::fs::remove_dir(own.join("roots"))?;
            register(&own, "owned")?.expect(0)?;
            with_sleeper("job-7.scope")?;
            wait_for("the run in the emptied cgroup has ended", || Ok(node.run("owned")?["state"] == "ended"))?;
            register(&top.path().join("job-7.scope"), "scoped")?.expect(0)?;
            node.ctl(["kill", "scoped", "--reason", "test"])?.expect(0)?;
            sleeper.wait()?;
            node.log_is_whole()
        })();
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        done
    })
}

#[test]
fn a_command_starts_with_the_signals_blocked_that_its_caller_blocked() -> Result<()> {
    on_node("signal-mask", "", |node| {
        let policy = node.policy("p", PLAIN)?.display().to_string();
        let run = |name: &str, block: &[&str]| -> Result<u64> {
            let ctl = node.ctl_command([
                "run",
                "--policy",
                &policy,
                "--name",
                name,
                "--user",
                "root",
                "--quiet",
                "--",
                "cat",
                "/proc/self/status",
            ]);
            let mut caller = Command::new("env");
            caller.args(block).arg(ctl.get_program()).args(ctl.get_args());
            caller.envs(ctl.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let output = caller.output()?;
            let text = String::from_utf8(output.stdout)?;
            let line = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            let line = line.with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
            Ok(u64::from_str_radix(line.trim(), 16)?)
        };
        ensure!(run("plain", &[])? == 0);
        let usr1 = 1 << (nix::sys::signal::Signal::SIGUSR1 as u32 - 1);
        let blocked = run("blocked", &["--block-signal=USR1"])?;
        ensure!(blocked == usr1, "{blocked:x}");
        Ok(())
    })
}
