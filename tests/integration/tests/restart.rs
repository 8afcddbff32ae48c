//! What an outage of the daemon may hold: strangers at work meanwhile, commands cut in the middle, deaths while starting.

use anyhow::{Context, Result, ensure};
use failsafe_core::{
    Input, Value as Seen,
    event::{Event, NetOp},
    replay::Recorded,
};
use failsafe_journal::RecordingReader;
use integration::{Launch, TestCgroup, Unwritable, frozen, members, on_node, program, wait_for};
use serde_json::Value;
use std::{collections::BTreeSet, fs, net::TcpListener, process::Stdio, time::Duration};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

#[test]
fn a_strangers_thaw_during_the_outage_is_found_undone_and_reported() -> Result<()> {
    on_node("outage-thaw", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "before"])?.expect(0)?;
        node.kill9()?;
        fs::write(run.cgroup().join("cgroup.freeze"), "0")?;
        ensure!(!frozen(run.cgroup())?);
        node.restart()?;
        run.freezes()?;
        let adopted = node.wait_for_event("the adoption", |e| e["body"]["type"] == "run-adopted")?;
        ensure!(adopted["body"]["found"].as_str().is_some_and(|f| f.contains("thawed by someone else")), "{adopted}");
        node.wait_for_event("the foreign thaw", |e| {
            e["body"]["decision"]["cause"]["Upkeep"]["what"] == "foreign-thaw"
        })?;
        wait_for("it is listed as frozen", || Ok(node.run("held")?["state"] == "frozen"))?;
        node.log_is_whole()
    })
}

#[test]
fn a_run_that_could_not_be_thawed_is_held_also_by_the_next_daemon() -> Result<()> {
    on_node("failed-thaw", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        let (root, below) = (run.cgroup().join("cgroup.freeze"), run.cgroup().join("below"));
        fs::create_dir(&below)?;
        node.ctl(["freeze", "held", "--reason", "test"])?.expect(0)?;
        wait_for("the level below is frozen", || Ok(fs::read_to_string(below.join("cgroup.freeze"))? == "1\n"))?;
        let refused = Unwritable::mount(&below.join("cgroup.freeze"), &node.file("frozen"), "1\n")?;
        node.ctl(["thaw", "held", "--reason", "test"])?.expect(1)?;
        wait_for("it is listed as frozen", || Ok(node.run("held")?["state"] == "frozen"))?;
        fs::write(&root, "0")?;
        run.freezes()?;
        wait_for("it is listed as frozen again", || Ok(node.run("held")?["state"] == "frozen"))?;
        // A second thaw that fails, so that the last entry of the log is not a freeze.
        node.ctl(["thaw", "held", "--reason", "test"])?.expect(1)?;
        node.kill9()?;
        fs::write(&root, "0")?;
        node.restart()?;
        run.freezes()?;
        wait_for("the next daemon lists it as frozen", || Ok(node.run("held")?["state"] == "frozen"))?;
        drop(refused);
        node.ctl(["thaw", "held", "--reason", "test"])?.expect(0)?;
        ensure!(node.run("held")?["state"] == "running" && !frozen(run.cgroup())?, "{}", node.run("held")?);
        node.log_is_whole()
    })
}

#[test]
fn the_time_that_a_run_is_frozen_covers_its_whole_life_and_stays_after_its_end() -> Result<()> {
    on_node("frozen-time", "", |node| {
        let mut run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        let frozen_ms = |node: &integration::Node| node.run("held")?["frozen_ms"].as_u64().context("frozen_ms");
        node.ctl(["freeze", "held", "--reason", "test"])?.expect(0)?;
        wait_for("it has been frozen for 50 ms", || Ok(frozen_ms(node)? >= 50))?;
        let freeze = |node: &integration::Node| -> Result<Value> {
            let step = node.run("held")?["containment"][0].clone();
            Ok(serde_json::json!([step["measure"], step["desired"], step["decision"], step["actor"], step["verdict"]]))
        };
        let before = freeze(node)?;
        ensure!(before[0] == "freeze" && before[3]["local"]["uid"] == 0 && before[4] == "proved", "{before}");
        node.kill9()?;
        node.restart()?;
        ensure!(freeze(node)? == before, "by whom and what is proved: {}, not {before}", freeze(node)?);
        ensure!(frozen_ms(node)? >= 50, "the time before the restart is lost");
        node.ctl(["thaw", "held", "--reason", "test"])?.expect(0)?;
        let thawed = frozen_ms(node)?;
        node.ctl(["kill", "held", "--reason", "test"])?.expect(0)?;
        run.ends()?;
        wait_for("the run is listed as ended", || Ok(node.run("held")?["state"] == "ended"))?;
        ensure!(frozen_ms(node)? == thawed, "{} ms, {thawed} ms when it was thawed", frozen_ms(node)?);
        node.stop()?;
        node.restart()?;
        ensure!(frozen_ms(node)? == thawed, "the next daemon has {} ms, not {thawed} ms", frozen_ms(node)?);
        Ok(())
    })
}

#[test]
fn a_process_that_a_stranger_moves_out_of_a_frozen_run_is_brought_back() -> Result<()> {
    on_node("moved-out", "", |node| {
        let outside = TestCgroup::new("stranger")?;
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "stay"])?.expect(0)?;
        fs::write(outside.path().join("cgroup.procs"), run.pid().to_string())?;
        wait_for("it is back", || Ok(members(run.cgroup())?.contains(&run.pid()) && frozen(run.cgroup())?))?;
        node.wait_for_event("its recapture", |e| {
            e["body"]["action"]["recapture"]["pid"] == run.pid() && e["body"]["verdict"] == "proved"
        })?;
        wait_for("it is still a live frozen run", || Ok(node.run("held")?["state"] == "frozen"))?;
        node.ctl(["thaw", "held", "--reason", "go"])?.expect(0)?;
        // Of a run that is not contained, a stranger may move processes: a runtime may have its reasons. It is reported.
        fs::write(outside.path().join("cgroup.procs"), run.pid().to_string())?;
        wait_for("the departure is recorded, and only that", || {
            let events = node.events()?;
            let mut escapes = events.iter().filter(|e| e["body"]["decision"]["cause"]["Upkeep"]["what"] == "escape");
            Ok(escapes.next_back().is_some_and(|e| e["body"]["decision"]["actions"] == serde_json::json!(["notify"])))
        })?;
        ensure!(members(outside.path())?.contains(&run.pid()), "it was taken from the stranger");
        Ok(())
    })
}

/// SIGKILL between an operator's command and its outcome: the next daemon says how it stands, and does not do it again.
#[test]
fn a_command_cut_by_the_daemons_death_ends_in_a_state_that_is_known() -> Result<()> {
    on_node("cut", "", |node| {
        for (i, command) in ["freeze", "thaw", "kill"].iter().cycle().take(9).enumerate() {
            let name = format!("cut-{i}");
            let mut run = Launch::new(&name, PLAIN)
                .start(node, ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; wait"])?;
            if *command == "thaw" {
                node.ctl(["freeze", &name, "--reason", "to be thawed"])?.expect(0)?;
            }
            let mut ctl = node.ctl_command([command, &name.as_str(), &"--reason", &"cut"]);
            let mut asked = ctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            // The daemon dies at another moment of the command in each round.
            std::thread::sleep(Duration::from_micros(2_000 + 3_500 * u64::try_from(i)?));
            node.kill9()?;
            asked.wait()?;
            node.restart()?;
            let state = wait_for_known(node, &name)?;
            match *command {
                // Done, or cut before it was begun; never half.
                "freeze" => ensure!((state == "frozen") == frozen(run.cgroup())?, "freeze: {state}"),
                "thaw" => ensure!((state == "frozen") == frozen(run.cgroup())?, "thaw: {state}"),
                _ if state == "ended" => drop(run.ends()?),
                // A kill on record is decided again by the new daemon, and may be under way still.
                _ => wait_for("the run is whole or gone", || {
                    let members = members(run.cgroup()).map_or(0, |m| m.len());
                    Ok(members == 9 || (members == 0 && node.run(&name)?["state"] == "ended"))
                })?,
            }
            // Whatever it is, it can be ended.
            if state != "ended" {
                let output = node.ctl(["kill", &name, "--reason", "the end"])?;
                ensure!(output.code == 0 || output.err.contains("ended"), "{output:?}");
                run.ends()?;
            }
        }
        node.log_is_whole()?;
        let events = node.events()?;
        let cut = events.iter().filter(|e| e["body"]["verdict"]["failed"].to_string().contains("interrupted")).count();
        eprintln!("{cut} actions were found undone by the next daemon");
        for event in events.iter().filter(|e| e["kind"] == "control" && e["body"]["reason"] == "cut") {
            let decided =
                |e: &&Value| e["run"] == event["run"] && e["body"]["decision"]["cause"]["Operator"]["reason"] == "cut";
            ensure!(events.iter().filter(decided).count() <= 1, "the command was decided again: {event}");
        }
        Ok(())
    })
}

fn wait_for_known(node: &integration::Node, name: &str) -> Result<String> {
    integration::wait_for_some(&format!("it is known how {name} stands"), || {
        let state = node.run(name)?["state"].as_str().context("a state")?.to_owned();
        Ok((state != "partial").then_some(state))
    })
}

#[test]
fn a_daemon_that_dies_again_and_again_while_starting_loses_neither_runs_nor_blocks() -> Result<()> {
    on_node("dies-starting", "", |node| {
        let home = TcpListener::bind("127.0.0.1:0")?;
        let port = home.local_addr()?.port();
        let policy = format!("{PLAIN}[egress]\nallow = [{{ cidr = \"127.0.0.1/32\", ports = [{port}] }}]\n");
        let sender = program("sender")?.display().to_string();
        let sentinel = integration::sentinel(node, "tried")?;
        let script = format!(
            "while :; do {sender} --to 127.0.0.3:{port} --how tcp --count 1 | grep -q 'refused: EPERM' && echo x >> {} || echo LEAK; sleep 0.01; done",
            sentinel.display()
        );
        let talks = Launch::new("talks", &policy).start(node, ["sh", "-c", &script])?;
        let held = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "before"])?.expect(0)?;
        node.kill9()?;
        for i in 0..10 {
            node.spawn()?;
            // ... and here at another moment of its start.
            std::thread::sleep(Duration::from_millis(i * 25));
            node.kill9()?;
            ensure!(frozen(held.cgroup())?, "thawed at death {i}");
        }
        node.restart()?;
        ensure!(node.run("talks")?["state"] == "running" && node.run("held")?["state"] == "frozen");
        let tried = fs::metadata(&sentinel)?.len();
        wait_for("it is still refused", || Ok(fs::metadata(&sentinel)?.len() > tried + 10))?;
        ensure!(!talks.output().contains("LEAK"), "a forbidden connect got through");
        let generations = || -> Result<usize> {
            let instance = fs::read_dir(node.pins().join("failsafe"))?.next().context("no instance")??;
            Ok(fs::read_dir(instance.path())?.count())
        };
        wait_for("the pins of the dead ones are gone", || Ok(generations()? == 1))?;
        node.ctl(["thaw", "held", "--reason", "after"])?.expect(0)?;
        node.log_is_whole()
    })
}

/// As after a boot: nothing in the kernel bounds it, and the audit log has nothing of it in this boot.
#[test]
fn a_run_of_an_earlier_boot_is_recorded_as_ended() -> Result<()> {
    on_node("earlier-boot", "", |node| {
        let old = Launch::new("old", PLAIN).start(node, ["sleep", "600"])?;
        let file = node.state_dir().join("runs").join(old.id()).join("run.json");
        let text = fs::read_to_string(&file)?;
        node.ctl(["kill", "old", "--reason", "the machine is switched off"])?.expect(0)?;
        wait_for("it has ended", || Ok(node.run("old")?["state"] == "ended"))?;
        node.kill9()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        ensure!(text.contains(boot.trim()), "{text}");
        let (earlier, id) = ("00000000-0000-4000-8000-000000000000", "01a00000-0000-7000-8000-000000000001");
        let text = text.replace(boot.trim(), earlier).replace(old.id(), id);
        let folder = node.state_dir().join("runs").join(id);
        fs::create_dir(&folder)?;
        fs::write(folder.join("run.json"), text)?;
        node.restart()?;
        ensure!(node.run(id)?["state"] == "ended", "{}", node.run(id)?);
        Ok(())
    })
}

/// Whoever edits the boot in `run.json` does not have a live run forgotten.
#[test]
fn a_live_run_with_another_boot_in_its_run_json_is_still_judged() -> Result<()> {
    on_node("edited-boot", "", |node| {
        let run = Launch::new("old", PLAIN).start(node, ["sleep", "600"])?;
        node.kill9()?;
        let file = node.state_dir().join("runs").join(run.id()).join("run.json");
        let text = fs::read_to_string(&file)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        fs::write(&file, text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000"))?;
        node.restart()?;
        ensure!(node.run("old")?["state"] == "running", "{}", node.run("old")?);
        node.ctl(["freeze", "old", "--reason", "it is judged"])?.expect(0)?;
        ensure!(frozen(run.cgroup())?);
        node.log_is_whole()
    })
}

/// A ring that is too small for what happens before, during and after the outage: each loss is told once. Totals go on.
#[test]
fn what_the_kernel_counted_during_the_outage_is_reported_once() -> Result<()> {
    on_node("outage-counted", "ring_kib = 4\n", |node| {
        let connects = program("connect-loop")?.display().to_string();
        let policy = format!("{PLAIN}[egress]\nallow = []\n");
        let script = format!("while :; do {connects} --stream --seconds 0.3; done");
        let run = Launch::new("busy", &policy).start(node, ["sh", "-c", &script])?;
        let number = |node: &integration::Node, key: &str| -> Result<u64> {
            let run = node.run("busy")?;
            run[key].as_u64().or_else(|| run[key].as_str()?.parse().ok()).with_context(|| format!("{key}: {run}"))
        };
        wait_for("a loss before the outage", || Ok(number(node, "events_lost")? > 0))?;
        let before = number(node, "events_lost")?;
        let refused =
            |node: &integration::Node| node.run("busy")?["kernel"]["denied_calls"].as_u64().context("a count");
        let refused_before = refused(node)?;
        node.kill9()?;
        let rounds = || run.output().lines().count();
        let ended = rounds();
        wait_for("a whole round without a daemon", || Ok(rounds() > ended + 1))?;
        node.restart()?;
        wait_for("losses count on", || Ok(number(node, "events_lost")? >= before))?;
        let adopted = node.wait_for_event("the adoption", |e| e["body"]["type"] == "run-adopted")?;
        let found = adopted["body"]["found"].as_str().context("what was found")?;
        ensure!(found.contains("since a daemon last looked") && found.contains("network calls refused"), "{found}");
        wait_for("refusals count on", || Ok(refused(node)? > refused_before))?;
        let page = node.ctl(["describe", "busy"])?.expect(0)?.out;
        ensure!(page.lines().any(|line| line.starts_with("refused") && line.contains("network calls")), "{page}");
        node.ctl(["freeze", "busy", "--reason", "enough"])?.expect(0)?;
        let told = |node: &integration::Node| -> Result<u64> {
            let events = node.events()?;
            let gaps = events.iter().filter(|e| e["body"]["type"] == "gap");
            Ok(gaps.filter_map(|e| e["body"]["lost"].as_u64()).sum())
        };
        wait_for("every loss is in one gap", || Ok(told(node)? == number(node, "events_lost")?))?;
        // Where nothing can be read of the earlier programs the log still knows.
        node.kill9()?;
        rename_generation(node, "g9_v2")?;
        node.restart()?;
        wait_for("losses count on", || Ok(number(node, "events_lost")? >= before))?;
        wait_for("every loss is in one gap", || Ok(told(node)? == number(node, "events_lost")?))?;
        node.log_is_whole()
    })
}

/// What the stopping daemon takes out of the ring it judges; the rest is the next one's.
#[test]
fn every_event_around_a_stop_is_judged_by_one_of_the_two_daemons() -> Result<()> {
    const EACH: &str = "[[rule]]\nid = \"each\"\nrationale = \"x\"\nwhen = { event = \"send\", verdict = \"denied\" }\n\
        cooldown = \"1s\"\nactions = [\"notify\"]\n";
    // So large that the burst takes less than half of it: in a ring that is fuller, a run has only its share.
    on_node("stop-judged", "ring_kib = 8192\n", |node| {
        let burst = program("burst")?.display().to_string();
        let policy = format!("{PLAIN}[egress]\nallow = []\n{EACH}");
        // Made faster than they are judged, and so many that the ring has room for those that no daemon reads.
        let script = format!("printf '60000 0.1\\n' | {burst}; sleep 600");
        let run = Launch::new("busy", &policy).start(node, ["sh", "-c", &script])?;
        // Each call has an address of its own. One that both daemons' programs refused, while they take turns, is told twice. What a
        // daemon judges is in its recording; decisions are fewer, as a run has a bounded number of them a second.
        let folder = node.state_dir().join("runs").join(run.id());
        let judged = |_: &integration::Node| -> Result<BTreeSet<String>> {
            let mut all = BTreeSet::new();
            for part in ["0000.fsrec", "0001.fsrec"] {
                // A live recording ends anywhere.
                let frames = RecordingReader::open(&folder.join(part))?.map_while(Result::ok);
                for recorded in frames.map_while(|frame| frame.decode::<Recorded>().ok()) {
                    if let Recorded::Input(Input::Signal(signal)) = recorded
                        && let Seen::Event(Event::Net { op: NetOp::Send, address, .. }) = signal.value
                    {
                        all.insert(address.to_string());
                    }
                }
            }
            Ok(all)
        };
        node.wait_for_event("the first is judged", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "each")?;
        node.stop()?;
        node.restart()?;
        let output = || run.output().lines().find(|line| line.contains("\"sent\"")).map(str::to_owned);
        wait_for("the burst is over", || Ok(output().is_some()))?;
        let output: serde_json::Value = serde_json::from_str(&output().unwrap_or_default())?;
        let sent = output["sent"].as_u64().context("how many were made")?;
        ensure!(output["refused"] == sent, "{output}");
        let sent = usize::try_from(sent)?;
        wait_for("each is judged", || Ok(judged(node)?.len() >= sent))
            .with_context(|| format!("{} of {sent} were judged", judged(node).map_or(0, |all| all.len())))?;
        ensure!(node.run("busy")?["events_lost"].as_u64().unwrap_or_default() == 0);
        node.log_is_whole()
    })
}

/// A run of root reaches for the state folder all the while. Without LSM only permissions keep it, and root has them.
#[test]
fn failsafes_own_files_are_kept_from_runs_of_root_over_a_restart() -> Result<()> {
    on_node("own-files", "", |node| {
        let mark = node.state_dir().join("intruder");
        let script =
            format!("while :; do (: > {}) 2>/dev/null && echo LEAK || echo refused; sleep 0.02; done", mark.display());
        let run = Launch::new("reaches", PLAIN).user("root").start(node, ["sh", "-c", &script])?;
        wait_for("the first try", || Ok(!run.output().is_empty()))?;
        if run.output().contains("LEAK") {
            integration::skip("this kernel refuses LSM programs");
            return Ok(());
        }
        for _ in 0..2 {
            node.kill9()?;
            node.restart()?;
            let tried = run.output().len();
            wait_for("it still tries", || Ok(run.output().len() > tried))?;
        }
        ensure!(!run.output().contains("LEAK") && !mark.exists(), "it wrote into the state folder");
        node.log_is_whole()
    })
}

/// As after an upgrade.
#[test]
fn programs_of_another_abi_are_replaced_and_what_cannot_be_read_of_them_is_reported() -> Result<()> {
    on_node("other-abi", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "before"])?.expect(0)?;
        node.kill9()?;
        let instance = rename_generation(node, "g1_v2")?;
        node.restart()?;
        ensure!(frozen(run.cgroup())? && node.run("held")?["state"] == "frozen");
        let gap = node.wait_for_event("the gap", |e| e["body"]["type"] == "gap" && e["run"] == run.id())?;
        ensure!(gap["body"]["what"].as_str().is_some_and(|what| what.contains("programs of ABI 2")), "{gap}");
        ensure!(fs::read_dir(&instance)?.count() == 1, "the old programs stay");
        node.log_is_whole()
    })
}

/// Makes the one generation that is there one of another number and ABI. Returns where generations are.
fn rename_generation(node: &integration::Node, to: &str) -> Result<std::path::PathBuf> {
    let instance = fs::read_dir(node.pins().join("failsafe"))?.next().context("no instance")??.path();
    let pins = fs::read_dir(&instance)?.next().context("no generation")??.path();
    fs::rename(&pins, instance.join(to))?;
    Ok(instance)
}

/// Somebody with the right to write the cgroup thaws a run that the daemon has frozen, while no daemon runs.
#[test]
fn time_in_which_somebody_else_had_thawed_the_run_while_no_daemon_ran_does_not_count_as_frozen() -> Result<()> {
    on_node("thawed-meanwhile", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        let frozen_ms = |node: &integration::Node| node.run("held")?["frozen_ms"].as_u64().context("frozen_ms");
        let begun = std::time::Instant::now();
        node.ctl(["freeze", "held", "--reason", "test"])?.expect(0)?;
        node.kill9()?;
        fs::write(run.cgroup().join("cgroup.freeze"), "0")?;
        let thawed = std::time::Instant::now();
        // Longer than a command takes, so that the time shows.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let thawed = u64::try_from(thawed.elapsed().as_millis())?;
        node.restart()?;
        wait_for("the run is frozen again", || frozen(run.cgroup()))?;
        let counts = |node: &integration::Node| -> Result<()> {
            let frozen = frozen_ms(node)?;
            let most = u64::try_from(begun.elapsed().as_millis())?.saturating_sub(thawed);
            ensure!(frozen <= most, "{frozen} ms count as frozen, of at most {most} ms");
            Ok(())
        };
        counts(node)?;
        // The next daemon has it from the audit log.
        node.kill9()?;
        node.restart()?;
        counts(node)?;
        node.log_is_whole()
    })
}
