//! The daemon killed by SIGKILL: what it contained stays contained, its blocks stay in force, and the next one knows.

use anyhow::{Context, Result, ensure};
use integration::{HungFs, Launch, Node, Started, frozen, on_node, program, skip, wait_for, wait_for_some};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::TcpListener,
    time::{Duration, Instant},
};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

fn sender(to: &str, count: u32, pause_ms: u32) -> Result<Vec<String>> {
    let words = format!("--to {to} --how tcp --count {count} --pause-ms {pause_ms}");
    let mut command = vec![program("sender")?.display().to_string()];
    command.extend(words.split(' ').map(str::to_owned));
    Ok(command)
}

#[test]
fn a_frozen_run_stays_frozen_is_known_as_such_and_can_be_thawed() -> Result<()> {
    on_node("crash-frozen", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "before the crash"])?.expect(0)?;
        node.kill9()?;
        ensure!(frozen(run.cgroup())?, "the daemon's death thawed it");
        node.restart()?;
        ensure!(frozen(run.cgroup())?, "the daemon's start thawed it");
        let known = node.run("held")?;
        ensure!(known["id"] == run.id() && known["state"] == "frozen", "{known}");
        let adopted = node.wait_for_event("the adoption", |e| e["body"]["type"] == "run-adopted")?;
        ensure!(adopted["body"]["found"] == "frozen, as decided", "{adopted}");
        let thawed = node.json(["thaw", "held", "--reason", "after the crash"])?;
        ensure!(thawed["verdict"] == "proved" && thawed["incident"] == known["incident"], "{thawed} {known}");
        ensure!(!frozen(run.cgroup())?);
        wait_for("it is listed as running", || Ok(node.run("held")?["state"] == "running"))?;
        node.ctl(["freeze", "held", "--reason", "again"])?.expect(0)?;
        node.log_is_whole()
    })
}

#[test]
fn a_run_that_is_not_contained_lives_on_and_one_that_ended_meanwhile_is_recorded_so() -> Result<()> {
    on_node("crash-running", "", |node| {
        let on = Launch::new("lives-on", PLAIN).start(node, ["sleep", "600"])?;
        let mut off = Launch::new("ends-meanwhile", PLAIN).start(node, ["sleep", "600"])?;
        node.kill9()?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(off.pid())?),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        off.ends()?;
        node.restart()?;
        ensure!(node.run("lives-on")?["state"] == "running");
        ensure!(node.run("ends-meanwhile")?["state"] == "ended");
        ensure!(!off.cgroup().exists(), "the cgroup of a run that ended meanwhile is left");
        node.wait_for_event("the end of the other", |e| e["body"]["type"] == "run-ended" && e["run"] == off.id())?;
        node.ctl(["freeze", "lives-on", "--reason", "it is watched again"])?.expect(0)?;
        ensure!(frozen(on.cgroup())?);
        node.log_is_whole()
    })
}

#[test]
fn the_egress_block_holds_while_no_daemon_lives() -> Result<()> {
    on_node("crash-egress", "", |node| {
        let home = TcpListener::bind("127.0.0.1:0")?;
        let port = home.local_addr()?.port();
        let policy = format!("{PLAIN}[egress]\nallow = [{{ cidr = \"127.0.0.1/32\", ports = [{port}] }}]\n");
        let sentinel = integration::sentinel(node, "tried")?;
        // Every attempt is counted; one that gets through is told.
        let script = format!(
            "while :; do {} | grep -q 'refused: EPERM' && echo x >> {} || echo LEAK; sleep 0.02; done",
            sender(&format!("127.0.0.3:{port}"), 1, 0)?.join(" "),
            sentinel.display()
        );
        let run = Launch::new("talks", &policy).start(node, ["sh", "-c", &script])?;
        let tries = || -> Result<u64> { Ok(std::fs::metadata(&sentinel)?.len()) };
        wait_for("it tried", || Ok(tries()? > 4))?;
        node.kill9()?;
        let before = tries()?;
        wait_for("it tried ten times more with no daemon", || Ok(tries()? > before + 20))?;
        node.restart()?;
        let before = tries()?;
        wait_for("it tried ten times more with the next daemon", || Ok(tries()? > before + 20))?;
        ensure!(!run.output().contains("LEAK"), "a forbidden connect got through");
        // In order, too: a stop with a run alive leaves its block.
        node.stop()?;
        let before = tries()?;
        wait_for("it tried ten times more after a stop", || Ok(tries()? > before + 20))?;
        ensure!(!run.output().contains("LEAK"), "a forbidden connect got through after a stop");
        Ok(())
    })
}

/// SIGKILL at moments spread over an intervention. The workload tries again and again, so that whichever daemon sees it has
/// to freeze it; an outage must let no packet out and the log must stay whole.
#[test]
fn killed_at_any_moment_of_an_intervention_the_run_ends_up_frozen_and_the_log_is_whole() -> Result<()> {
    on_node("crash-any", "", |node| {
        let policy = format!(
            "{PLAIN}[egress]\nallow = []\n[[rule]]\nid = \"out\"\nrationale = \"nothing leaves\"\n\
             when = {{ event = \"connect\", verdict = \"denied\" }}\nactions = [\"block\", \"freeze\", \"snapshot\", \"notify\"]\n"
        );
        let mut runs = Vec::new();
        for i in 0..15u64 {
            let go = integration::sentinel(node, &format!("go{i}"))?;
            let script = format!(
                "while ! grep -q go {}; do sleep 0.005; done; exec {}",
                go.display(),
                sender("127.0.0.5:9", 1_000_000, 20)?.join(" ")
            );
            let name = format!("victim-{i}");
            let run = Launch::new(&name, &policy).start(node, ["sh", "-c", &script])?;
            std::fs::write(&go, "go")?;
            if i % 2 == 0 {
                // The shell polls every 5 ms and the sender starts in a few more: the first moments are before the violation.
                std::thread::sleep(Duration::from_micros(i * 1_600));
            } else {
                // From the first write of the freeze on: before its record, before its proof, before the proof's record.
                let asked = run.cgroup().join("cgroup.freeze");
                let deadline = Instant::now() + Duration::from_secs(5);
                while std::fs::read(&asked)? != b"1\n" && Instant::now() < deadline {}
                std::thread::sleep(Duration::from_micros((i / 2) * 150));
            }
            node.kill9()?;
            node.restart()?;
            run.freezes().with_context(|| {
                let procs = std::fs::read_to_string(run.cgroup().join("cgroup.procs"));
                format!(
                    "death {i}: {:?}, processes {procs:?}, it said {}{}",
                    node.run(run.id()),
                    run.output(),
                    run.errors()
                )
            })?;
            settled(node, &run)?;
            runs.push(run);
            // The oldest goes: a daemon that dies has some to look after, not all.
            if runs.len() > 4 {
                runs.remove(0);
            }
        }
        node.log_is_whole()?;
        let events = node.events()?;
        once_proved(&events)?;
        print_summary(&events);
        for run in &runs {
            ensure!(frozen(run.cgroup())?, "{} did not stay frozen", run.name());
        }
        // It offends again at once: the thaw is proved, or the next freeze came before its proof.
        let thaw = node.ctl(["thaw", runs[0].id(), "--reason", "one of them"])?;
        ensure!(thaw.code == 0 || (thaw.code == 3 && thaw.out.contains("froze the run again")), "{thaw:?}");
        Ok(())
    })
}

/// Every action that was decided has its outcome, and the registry knows the run as frozen.
fn settled(node: &Node, run: &Started) -> Result<()> {
    wait_for(&format!("{} is known as frozen", run.name()), || Ok(node.run(run.id())?["state"] == "frozen"))?;
    wait_for(&format!("every decision on {} has its outcome", run.name()), || {
        let events = node.events()?;
        let of_run = |e: &&Value| e["run"] == run.id();
        let outcome = |n: &Value, action: &Value| {
            let is = |e: &&Value| e["body"]["decision"]["n"] == *n && e["body"]["action"] == *action;
            events.iter().filter(of_run).filter(|e| e["kind"] == "outcome").any(|e| is(&e))
        };
        Ok(events.iter().filter(of_run).filter(|e| e["kind"] == "decision").all(|e| {
            let decision = &e["body"]["decision"];
            let contains = |a: &&Value| **a == "freeze" || **a == "block";
            let actions = decision["actions"].as_array().into_iter().flatten().filter(contains);
            actions.into_iter().all(|action| outcome(&decision["id"]["n"], action))
        }))
    })
}

/// No action of a decision was proved twice, no decision's number was given twice, and a later daemon did not decide again
/// what an earlier one had proved.
fn once_proved(events: &[Value]) -> Result<()> {
    let mut proved = BTreeMap::<String, u32>::new();
    let mut numbers = BTreeMap::<String, u32>::new();
    for event in events {
        let body = &event["body"];
        if event["kind"] == "outcome" && body["verdict"] == "proved" {
            *proved.entry(format!("{} {} {}", event["run"], body["decision"]["n"], body["action"])).or_default() += 1;
        }
        if event["kind"] == "decision" {
            *numbers.entry(format!("{} {}", event["run"], body["decision"]["id"]["n"])).or_default() += 1;
        }
    }
    ensure!(!proved.is_empty());
    for (what, times) in proved.iter().chain(&numbers) {
        ensure!(*times == 1, "{what}: {times} times");
    }
    Ok(())
}

/// How many of the deaths came before, between and after the decision and its outcome.
fn print_summary(events: &[Value]) {
    let re_observed = events.iter().filter(|e| e["body"]["proofs"].to_string().contains("re-observed")).count();
    let interrupted =
        events.iter().filter(|e| e["body"]["verdict"]["failed"].to_string().contains("interrupted")).count();
    let found: Vec<&str> = events.iter().filter_map(|e| e["body"]["found"].as_str()).collect();
    let frozen = found.iter().filter(|f| f.starts_with("frozen, as decided")).count();
    let undecided = found.iter().filter(|f| f.contains("without a decision")).count();
    eprintln!(
        "{re_observed} outcomes re-observed, {interrupted} interrupted; adopted {frozen} frozen as decided, {undecided} frozen without a decision"
    );
}

/// The run ends before another daemon comes: nobody can contain it any more, but what it did is on record.
#[test]
fn a_violation_of_a_run_that_ends_while_no_daemon_runs_is_on_record() -> Result<()> {
    on_node("ends-unseen", "", |node| {
        let policy = format!("{PLAIN}[egress]\nallow = []\n");
        let go = integration::sentinel(node, "go")?;
        let connect = sender("127.0.0.3:9", 3, 0)?.join(" ");
        let script = format!("while ! [ -s {} ]; do sleep 0.02; done; {connect}; true", go.display());
        let mut run = Launch::new("unseen", &policy).start(node, ["sh", "-c", &script])?;
        node.kill9()?;
        std::fs::write(&go, "x")?;
        run.ends()?;
        node.restart()?;
        let (id, gap) = (run.id().to_owned(), |e: &Value, text: &str| {
            e["body"]["type"] == "gap" && e["body"]["what"].as_str().is_some_and(|what| what.contains(text))
        });
        let what = node.wait_for_event("its events are on record", |e| {
            e["run"] == id && gap(e, "the run ended before a daemon judged its last events")
        })?;
        let text = what["body"]["what"].as_str().context("what")?.to_owned();
        ensure!(text.contains("refused: ") && text.contains("127.0.0.3:9"), "{text}");
        let totals = node.wait_for_event("its counters", |e| e["run"] == id && e["body"]["type"] == "run-totals")?;
        let refused = ["denied_calls", "dropped_packets"].map(|n| totals["body"]["totals"][n].as_u64().unwrap_or(0));
        ensure!(refused.iter().sum::<u64>() > 0, "{totals}");
        let end = node.wait_for_event("its end", |e| e["run"] == id && e["body"]["type"] == "run-ended")?;
        let between = &end["body"]["unwatched"];
        let (seen, noticed) = (between["last_seen_ns"].as_i64(), between["noticed_ns"].as_i64());
        ensure!(seen.is_some_and(|seen| seen > 0) && seen <= noticed, "{between}");
        let shown = node.run("unseen")?;
        ensure!(shown["state"] == "ended" && shown["ended_ns"] == 0, "{shown}");
        ensure!(shown["ended_after_ns"].as_i64() == seen && shown["ended_before_ns"].as_i64() == noticed, "{shown}");
        let page = node.ctl(["describe", "unseen"])?.expect(0)?.out;
        ensure!(page.contains("no daemon watched the end") && !page.contains("not verified"), "{page}");
        // The same after another restart, and nothing is recorded twice.
        node.kill9()?;
        node.restart()?;
        let again = node.run("unseen")?;
        ensure!(again["ended_after_ns"] == shown["ended_after_ns"] && again["unverified"] == "", "{again}");
        let events = node.events()?;
        let count = |of: &dyn Fn(&Value) -> bool| events.iter().filter(|e| e["run"] == id && of(e)).count();
        ensure!(count(&|e| e["body"]["type"] == "run-ended") == 1 && count(&|e| gap(e, "judged its last events")) == 1);
        node.log_is_whole()
    })
}

/// A user's file system that does not answer holds a thread that reads it, past SIGKILL of the daemon.
#[test]
fn the_next_daemon_starts_while_a_thread_of_the_killed_one_hangs_on_a_file_system_of_a_user() -> Result<()> {
    on_node("crash-hung", "", |node| {
        let Some(hung) = HungFs::mount(&node.file("hung"))? else {
            skip("no /dev/fuse");
            return Ok(());
        };
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "before the crash"])?.expect(0)?;
        let looks = format!(
            "{PLAIN}[[rule]]\nid = \"look\"\nrationale = \"a file there\"\n\
             when = {{ event = \"open\", path = \"{}\" }}\nactions = [\"notify\"]\n",
            node.file("hung/file").display()
        );
        let policy = node.policy("looks", &looks)?;
        let mut start = node
            .ctl_command(["run", "--user", "root", "--name", "looks", "--policy"])
            .arg(&policy)
            .args(["--", "true"])
            .spawn()?;
        let thread = wait_for_some("the daemon looks at the file", || {
            Ok(hung.asked_by().into_iter().find(|thread| {
                node.pid().is_ok_and(|pid| std::fs::exists(format!("/proc/{pid}/task/{thread}")).unwrap_or(false))
            }))
        })?;
        let mut killed = node.kill9_with(thread)?;
        wait_for("the caller sees that the daemon is gone", || Ok(start.try_wait()?.is_some()))?;
        node.restart()?;
        ensure!(
            killed.try_wait()?.is_none(),
            "the thread of the killed daemon did not hang until the next one answered"
        );
        ensure!(frozen(run.cgroup())? && node.run("held")?["state"] == "frozen", "{}", node.run("held")?);
        node.ctl(["thaw", "held", "--reason", "after the crash"])?.expect(0)?;
        drop(hung);
        wait_for("the killed daemon ends", || Ok(killed.try_wait()?.is_some()))?;
        node.log_is_whole()
    })
}
