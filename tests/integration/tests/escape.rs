//! Ways out of a containment that the run or somebody else on the node may try: moving away, and being thawed by a stranger.

use anyhow::{Context, Result, ensure};
use integration::{Launch, TestCgroup, frozen, on_node, program, wait_for};
use serde_json::Value;
use std::{fs, time::Instant};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

#[test]
fn a_process_that_moves_itself_out_is_brought_back_and_recorded() -> Result<()> {
    on_node("escape", "", |node| {
        let outside = TestCgroup::new("outside")?;
        let escaper = program("escaper")?.display().to_string();
        let to = outside.path().display().to_string();
        let command = [
            "sh",
            "-c",
            "sleep 600 & exec \"$@\"",
            "sh",
            &escaper,
            "--to",
            &to,
            "--after-ms",
            "200",
            "--seconds",
            "30",
        ];
        // As root: an unprivileged run may not write there at all.
        let run = Launch::new("escaper", PLAIN).user("root").start(node, command)?;
        run.says("moved")?;
        let decision =
            node.wait_for_event("the escape", |e| e["body"]["decision"]["cause"]["Upkeep"]["what"] == "escape")?;
        let leave = &decision["body"]["decision"]["values"][0]["value"]["Event"]["Leave"];
        ensure!(leave["pid"] == run.pid() && leave["mover_in_run"] == true, "{leave}");
        let back = node.wait_for_event("its recapture", |e| {
            e["body"]["action"]["recapture"]["pid"] == run.pid() && e["body"]["verdict"] == "proved"
        })?;
        eprintln!("recaptured {} us after it left", back["body"]["took"].as_u64().unwrap_or_default() / 1000);
        ensure!(integration::members(run.cgroup())?.contains(&run.pid()), "it is not back in its run");
        ensure!(integration::members(outside.path())?.is_empty(), "it is still outside");
        node.ctl(["kill", "escaper", "--reason", "the test is over"])?.expect(0)?;
        node.log_is_whole()
    })
}

#[test]
fn an_unprivileged_run_cannot_leave_its_cgroup() -> Result<()> {
    on_node("no-escape", "", |node| {
        let escaper = program("escaper")?.display().to_string();
        let to = node.mount().display().to_string();
        let mut run = Launch::new("stays", PLAIN).start(node, [&escaper, "--to", &to, "--seconds", "0"])?;
        run.ends()?;
        ensure!(run.output().contains("move refused EACCES"), "{}", run.output());
        Ok(())
    })
}

/// Whoever it is: root in a run would else thaw it, and anybody start another run under another policy and be moved there.
#[test]
fn a_process_of_a_run_commands_nothing_but_its_own_freeze() -> Result<()> {
    on_node("commander", "", |node| {
        let other = Launch::new("other", PLAIN).start(node, ["sleep", "600"])?;
        let lax = node.policy("lax", PLAIN)?;
        std::fs::set_permissions(&lax, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        let script = format!(
            "say() {{ \"$F\" \"$@\" 2>&1 | tr '\\n' ' '; echo; }}
             say run $U --policy {lax} --name way-out -- sh -c 'echo it is out'
             say register --policy {lax} --name way-out --pid $$
             say thaw \"$N\" --reason 'I want it'
             say kill other --reason 'I want it'
             say node cordon --reason 'I want it'
             say list
             say freeze \"$N\" --reason 'I give up'
             echo thawed; exec sleep 600",
            lax = lax.display()
        );
        let ctl = program("failsafectl")?;
        for (name, user) in [("roots", "--user root"), ("anybodys", "")] {
            let run = Launch::new(name, PLAIN).env("F", &ctl).env("N", name).env("U", user);
            let run = if user.is_empty() { run.called_by(65534) } else { run.user("root") };
            let run = run.start(node, ["sh", "-c", &script])?;
            run.freezes()?;
            let output = run.output();
            let lines: Vec<&str> = output.lines().collect();
            for (at, wanted) in [
                (0, "may not start or register a run"),
                (1, "may not start or register a run"),
                (2, "not from inside a run"),
                (3, "no run"),
                (4, "not from inside a run"),
            ] {
                ensure!(lines.get(at).is_some_and(|line| line.contains(wanted)), "{name}, line {at}: {output}");
            }
            ensure!(lines.len() == 6 && lines[5].contains(name) && !lines[5].contains("other"), "{name}: {output}");
            let procs = integration::members(run.cgroup())?;
            ensure!(procs.contains(&run.pid()) && !procs.contains(&other.pid()), "{name}: {procs:?}");
            node.ctl(["thaw", name, "--reason", "by one outside"])?.expect(0)?;
            run.says("thawed")?;
        }
        ensure!(!frozen(other.cgroup())? && integration::members(other.cgroup())?.contains(&other.pid()));
        ensure!(node.json(["node", "health"])?["level"] != "draining", "{}", node.json(["node", "health"])?);
        node.log_is_whole()
    })
}

#[test]
fn a_strangers_thaw_is_undone_within_a_second_and_recorded() -> Result<()> {
    on_node("foreign-thaw", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "the test wants it so"])?.expect(0)?;
        for round in 1..=3 {
            fs::write(run.cgroup().join("cgroup.freeze"), "0")?;
            let thawed = Instant::now();
            wait_for("it is frozen again", || {
                let asked = fs::read_to_string(run.cgroup().join("cgroup.freeze"))?.trim() == "1";
                Ok(asked && frozen(run.cgroup())?)
            })?;
            let took = thawed.elapsed();
            eprintln!("frozen again {took:?} after a stranger's thaw");
            ensure!(took.as_millis() < 1_000, "round {round}: {took:?}");
            wait_for("the foreign thaw and its outcome are recorded", || {
                let events = node.events()?;
                let decided: Vec<_> = events
                    .iter()
                    .filter(|e| e["body"]["decision"]["cause"]["Upkeep"]["what"] == "foreign-thaw")
                    .map(|e| e["body"]["decision"]["id"]["n"].clone())
                    .collect();
                let proved = |n: &Value| {
                    let is = |e: &&Value| e["body"]["decision"]["n"] == *n && e["body"]["action"] == "freeze";
                    events.iter().filter(is).any(|e| e["body"]["verdict"] == "proved")
                };
                Ok(decided.len() >= round && decided.iter().all(proved))
            })?;
        }
        wait_for("it is listed as frozen", || Ok(node.run("held")?["state"] == "frozen"))?;
        let decisions = node.run("held")?["decisions"].as_u64().context("decisions")?;
        // A thaw by who may is nobody's intrusion.
        node.ctl(["thaw", "held", "--reason", "enough"])?.expect(0)?;
        // Nothing announces that the guard leaves it alone: it has the time in which it undid the thaws above.
        std::thread::sleep(std::time::Duration::from_millis(300));
        ensure!(!frozen(run.cgroup())?, "an operator's thaw was undone");
        ensure!(node.run("held")?["decisions"] == decisions + 1, "{}", node.run("held")?);
        Ok(())
    })
}

#[test]
fn a_cgroup_made_inside_a_run_belongs_to_it_and_freezes_with_it() -> Result<()> {
    on_node("nested", "", |node| {
        let inner = "mkdir $C/inner && echo $$ > $C/inner/cgroup.procs && while :; do sleep 0.01; done";
        let script =
            format!("C={}$(sed -n 's/^0:://p' /proc/self/cgroup); sh -c 'C='$C'; {inner}'", node.mount().display());
        let run = Launch::new("nested", PLAIN).user("root").start(node, ["sh", "-c", &script])?;
        let below = run.cgroup().join("inner");
        wait_for("the inner cgroup is there", || Ok(below.is_dir() && !integration::members(&below)?.is_empty()))?;
        let output = node.json(["freeze", "nested", "--reason", "all of it"])?;
        ensure!(output["verdict"] == "proved", "{output}");
        ensure!(frozen(run.cgroup())? && frozen(&below)?);
        ensure!(
            fs::read_to_string(below.join("cgroup.freeze"))?.trim() == "1",
            "only the run's root was told to freeze"
        );
        node.ctl(["thaw", "nested", "--reason", "again"])?.expect(0)?;
        ensure!(!frozen(&below)? && fs::read_to_string(below.join("cgroup.freeze"))?.trim() == "0");
        let killed = node.json(["kill", "nested", "--reason", "over"])?;
        ensure!(killed["verdict"] == "proved", "{killed}");
        wait_for("nothing of it is left", || Ok(!run.cgroup().exists()))
    })
}

#[test]
fn a_fork_bomb_is_frozen_and_killed() -> Result<()> {
    on_node("forkbomb", "", |node| {
        let bomb = program("forkbomb")?.display().to_string();
        let run = Launch::new("bomb", PLAIN).start(node, [&bomb, "--max", "150", "--seconds", "60"])?;
        wait_for("it has exploded", || Ok(integration::members(run.cgroup())?.len() > 50))?;
        let output = node.json(["freeze", "bomb", "--reason", "too many"])?;
        ensure!(output["verdict"] == "proved" && frozen(run.cgroup())?, "{output}");
        eprintln!("fork bomb frozen in {} us", output["took_ns"].as_u64().unwrap_or_default() / 1000);
        node.ctl(["thaw", "bomb", "--reason", "to kill it running"])?.expect(0)?;
        let output = node.json(["kill", "bomb", "--reason", "too many"])?;
        ensure!(output["verdict"] == "proved", "{output}");
        eprintln!("fork bomb killed in {} us", output["took_ns"].as_u64().unwrap_or_default() / 1000);
        wait_for("nothing of it is left", || Ok(!run.cgroup().exists()))?;
        wait_for("it has ended", || Ok(node.run("bomb")?["state"] == "ended"))
    })
}

/// Every round at another moment of the freeze.
#[test]
fn a_run_whose_cgroup_vanishes_while_it_is_frozen_ends_and_nothing_hangs() -> Result<()> {
    on_node("vanish", "", |node| {
        let policy = node.policy("p", PLAIN)?.display().to_string();
        for round in 0..10u64 {
            let own = TestCgroup::new(&format!("vanish-{round}"))?;
            let script = format!("echo $$ > {}/cgroup.procs; exec sleep 600", own.path().display());
            let mut child = std::process::Command::new("sh").args(["-c", &script]).spawn()?;
            let path = own.path().display().to_string();
            let name = format!("gone-{round}");
            let done = (|| {
                wait_for("the process is in", || Ok(!integration::members(own.path())?.is_empty()))?;
                node.ctl(["register", "-p", &policy, "-n", &name, "--cgroup", &path])?.expect(0)?;
                let mut ctl = node.ctl_command(["freeze", &name, "--reason", "now", "-o", "json"]);
                let asked = ctl.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
                // The cgroup goes at another moment of the freeze in each round.
                std::thread::sleep(std::time::Duration::from_millis(round * 2));
                fs::write(own.path().join("cgroup.kill"), "1")?;
                child.wait()?;
                wait_for("the cgroup can be removed", || Ok(fs::remove_dir(own.path()).is_ok()))?;
                let output = asked.wait_with_output()?;
                // Frozen before, or nobody left to freeze; or the run was over already.
                ensure!(matches!(output.status.code(), Some(0 | 1 | 3 | 5 | 6)), "{output:?}");
                wait_for("it has ended", || Ok(node.run(&name)?["state"] == "ended"))
            })();
            let _ = child.kill();
            let _ = child.wait();
            done.with_context(|| format!("round {round}"))?;
        }
        ensure!(node.json(["node", "status"])?["runs"] == 0);
        node.log_is_whole()
    })
}
