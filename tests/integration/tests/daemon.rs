//! The daemon's own life: one at a time, a tampered log, a full disk, a clean stop.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, Launch, NOBODY, Tmpfs, frozen, on_node, wait_for};
use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

#[test]
fn a_second_daemon_on_the_same_state_is_refused_with_the_process_that_has_it() -> Result<()> {
    on_node("second", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "test"])?.expect(0)?;
        let second = CommandOutput::of(&mut node.daemon_command()?)?;
        ensure!(second.code != 0, "{second:?}");
        ensure!(second.err.contains(&node.pid()?.to_string()), "the first one's pid is not named: {}", second.err);
        ensure!(frozen(run.cgroup())?, "the second one thawed it");
        node.ctl(["node", "status"])?.expect(0)?;
        node.log_is_whole()
    })
}

#[test]
fn a_configuration_with_a_mistake_is_refused_with_its_place() -> Result<()> {
    on_node("config", "", |node| {
        let path = node.policy("bad", "sokcet = \"/x\"\n")?;
        let mut command = Command::new(integration::program("failsafed")?);
        let output = CommandOutput::of(command.arg("--config").arg(path))?;
        ensure!(
            output.code != 0 && output.err.contains("sokcet") && output.err.contains("bad.toml:1:1: "),
            "{output:?}"
        );
        Ok(())
    })
}

#[test]
fn a_stop_in_order_leaves_nothing_behind() -> Result<()> {
    on_node("stop", "", |node| {
        let mut run = Launch::new("done", PLAIN).start(node, ["true"])?;
        run.ends()?;
        wait_for("the run has ended", || Ok(node.run("done")?["state"] == "ended"))?;
        let pins = || -> Result<usize> { Ok(fs::read_dir(node.pins())?.count()) };
        ensure!(pins()? > 0, "nothing is pinned while it lives");
        let begun = Instant::now();
        node.stop()?;
        eprintln!("stopped in {:?}", begun.elapsed());
        ensure!(
            fs::read_dir(node.pins())?.count() == 0,
            "pins are left: {:?}",
            fs::read_dir(node.pins())?.collect::<Vec<_>>()
        );
        ensure!(!node.socket().exists(), "the socket is left");
        let last = node.ctl(["events", "--offline", "-o", "json"])?.expect(0)?;
        ensure!(last.out.lines().last().is_some_and(|l| l.contains("daemon-stopped")), "{}", last.out);
        node.log_is_whole()
    })
}

#[test]
fn a_stop_with_somebody_following_the_log_does_not_wait_for_him() -> Result<()> {
    on_node("stop-follow", "", |node| {
        let mut follower = node.ctl_command(["events", "--follow", "-o", "json"]);
        let out = node.file("followed");
        let mut follower = follower.stdout(fs::File::create(&out)?).spawn()?;
        let stopped =
            wait_for("he has read the first entry", || Ok(fs::metadata(&out)?.len() > 0)).and_then(|()| node.stop());
        let _ = follower.kill();
        follower.wait()?;
        stopped
    })
}

#[test]
fn what_is_kept_of_runs_is_closed_to_others() -> Result<()> {
    on_node("closed", "", |node| {
        let _run = Launch::new("private", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "private", "--reason", "so that there is evidence"])?.expect(0)?;
        let script = format!("find {} -type f -readable 2>/dev/null", node.state_dir().display());
        let readable =
            CommandOutput::of(Command::new("sh").args(["-c", &script]).uid(NOBODY).gid(NOBODY).current_dir("/"))?;
        ensure!(!readable.out.contains("audit.log") && !readable.out.contains("runs/"), "{}", readable.out);
        let offline = node.ctl_as(NOBODY, ["events", "--offline"])?;
        ensure!(offline.code != 0, "{offline:?}");
        Ok(())
    })
}

#[test]
fn a_tampered_log_is_set_aside_and_the_new_one_records_it_first() -> Result<()> {
    on_node("tampered", "", |node| {
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "held", "--reason", "before the crime"])?.expect(0)?;
        node.log_is_whole()?;
        node.kill9()?;
        let log = log_file(node.state_dir());
        let text = fs::read(&log)?;
        let at = find(&text, b"before the crime").context("the reason stands in the log")?;
        let mut file = OpenOptions::new().write(true).open(&log)?;
        file.seek(SeekFrom::Start(u64::try_from(at)?))?;
        file.write_all(b"BEFORE")?;
        drop(file);
        let told = node.ctl(["log", "verify", "-o", "json"])?.expect(1)?.json()?;
        ensure!(told["verdict"] == "tampered", "{told}");
        let offset = told["problem"]["offset"].as_u64().context("an offset")?;
        ensure!(offset <= u64::try_from(at)? && u64::try_from(at)? - offset < 2_000, "tampered at {at}: {told}");

        node.restart()?;
        let first = node.events()?.into_iter().next().context("an entry")?;
        ensure!(first["body"]["what"].to_string().contains("tampered"), "the first record does not say so: {first}");
        let told = node.ctl(["log", "verify", "-o", "json"])?.expect(3)?.json()?;
        ensure!(told["verdict"] == "incomplete" && told["findings"][0]["entry"] == 0, "{told}");
        for command in [&["node", "status"][..], &["doctor"]] {
            let shown = node.ctl(command.iter().copied())?;
            ensure!(
                shown.out.contains("degraded") && shown.out.contains("tampered with"),
                "{command:?}: {}",
                shown.out
            );
        }
        // The run is frozen for no reason that the new log has: the page says what is missing.
        let explained = node.ctl(["explain", "held"])?.expect(0)?;
        ensure!(explained.err.contains("entries of the audit log are missing"), "{}", explained.err);
        ensure!(explained.err.contains("audit.log.aside-"), "{}", explained.err);
        let aside = fs::read_dir(log.parent().context("a folder")?)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.is_file() && path.display().to_string().contains("aside"))
            .context("the old log was not set aside")?;
        let aside = aside.display().to_string();
        let told = node.ctl(["log", "verify", "--file", &aside, "-o", "json"])?.expect(1)?.json()?;
        ensure!(told["problem"]["offset"] == offset, "{told}");
        // What it contained is found, though the log is gone.
        ensure!(frozen(run.cgroup())?);
        let known = node.run("held")?;
        ensure!(known["state"] == "frozen", "{known}");
        node.ctl(["thaw", "held", "--reason", "after the crime"])?.expect(0)?;
        ensure!(!frozen(run.cgroup())?);
        Ok(())
    })
}

#[test]
fn a_torn_tail_is_cut_off_and_reported() -> Result<()> {
    on_node("torn", "", |node| {
        let entries = node.events()?.len();
        node.kill9()?;
        let log = log_file(node.state_dir());
        let whole = fs::metadata(&log)?.len();
        OpenOptions::new().append(true).open(&log)?.write_all(&[200, 0, 0, 0, 1, 2, 3, 4, b'{', b'"'])?;
        let told = node.ctl(["log", "verify", "-o", "json"])?.expect(1)?.json()?;
        ensure!(told["verdict"] == "torn" && told["problem"]["offset"] == whole, "{told}");
        node.restart()?;
        node.log_is_whole()?;
        let after = node.events()?;
        ensure!(after.len() > entries && after[entries]["kind"] == "recovered", "{:?}", after.get(entries));
        Ok(())
    })
}

#[test]
fn a_full_disk_holds_up_no_freeze_and_the_records_come_when_there_is_room_again() -> Result<()> {
    let small = tempfile::Builder::new().prefix("failsafe-it-small-").tempdir()?;
    let mount = small.path().join("fs");
    // Below the check for root and cgroup2, so that a machine without them skips it.
    if !nix::unistd::geteuid().is_root() {
        integration::skip("not root");
        return Ok(());
    }
    let tmpfs = Tmpfs::mount(&mount, 1_024)?;
    let settings = format!("state_dir = {:?}\n", mount.join("state").display().to_string());
    on_node("full-disk", &settings, |node| {
        node.use_state_dir(&mount.join("state"));
        let run = Launch::new("held", PLAIN).start(node, ["sleep", "600"])?;
        let other = Launch::new("later", PLAIN).start(node, ["sleep", "600"])?;
        let fill = tmpfs.path().join("fill");
        fill_up(&fill)?;
        // The last page of the log has room for some records yet.
        wait_for("the log has no room left", || {
            let full = || -> Result<bool> { Ok(node.json(["node", "status"])?["log_state"] != "healthy") };
            node.ctl(["freeze", "later", "--reason", "filling"])?.expect(0)?;
            // Each answer waits a while for its record.
            if full()? {
                return Ok(true);
            }
            node.ctl(["thaw", "later", "--reason", "filling"])?.expect(0)?;
            full()
        })?;
        let begun = Instant::now();
        let output = node.json(["freeze", "held", "--reason", "the disk is full"])?;
        let took = begun.elapsed();
        eprintln!(
            "with a full disk: proved {} us after the command, answered in {took:?}",
            output["took_ns"].as_u64().unwrap_or_default() / 1000
        );
        ensure!(output["verdict"] == "proved" && frozen(run.cgroup())?, "{output}");
        ensure!(
            output["took_ns"].as_u64().unwrap_or(u64::MAX) < 1_000_000_000,
            "the freeze waited for the disk: {output}"
        );
        ensure!(
            output["missing"].to_string().contains("not on disk"),
            "it claims a record that is not there: {output}"
        );
        let status = node.json(["node", "status"])?;
        ensure!(status["log_state"].as_str().is_some_and(|s| s.starts_with("degraded")), "{status}");
        let doctor = node.ctl(["doctor", "-o", "json"])?.json()?;
        let log_check =
            doctor["checks"].as_array().into_iter().flatten().any(|c| c["area"] == "log" && c["state"] != "works");
        ensure!(log_check, "the doctor finds nothing wrong with the log: {doctor}");
        node.ctl(["freeze", "later", "--reason", "still full"])?.expect(0)?;
        ensure!(frozen(other.cgroup())?);
        let before = fs::metadata(log_file(&mount.join("state")))?.len();

        fs::remove_file(&fill)?;
        wait_for("the log is healthy again", || Ok(node.json(["node", "status"])?["log_state"] == "healthy"))?;
        for run in [&run, &other] {
            node.wait_for_event("the freeze's proof", |e| {
                e["run"] == run.id() && e["body"]["action"] == "freeze" && e["body"]["verdict"] == "proved"
            })?;
        }
        let gap = node.wait_for_event("what happened to the log", |e| e["kind"] == "gap")?;
        ensure!(gap["body"]["cause"] == "storage", "{gap}");
        ensure!(fs::metadata(log_file(&mount.join("state")))?.len() > before);
        node.log_is_whole()?;
        // And it survives: what was written then is read by the next daemon.
        node.kill9()?;
        node.restart()?;
        ensure!(node.run("held")?["state"] == "frozen");
        Ok(())
    })
}

/// Writes until nothing fits any more.
fn fill_up(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path)?;
    for size in [65_536, 4_096, 512, 1] {
        let block = vec![b'x'; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}

fn log_file(state_dir: &Path) -> PathBuf {
    state_dir.join("audit/audit.log")
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[test]
fn a_reload_applies_what_can_change_and_a_mistake_changes_nothing() -> Result<()> {
    on_node("reload", "", |node| {
        let folder = node.file("failsafed.d");
        fs::create_dir(&folder).context("making the folder of drop-ins")?;
        let set = |text: &str| fs::write(folder.join("50-test.toml"), text).context("writing a drop-in");
        let hang_up = || {
            let pid = nix::unistd::Pid::from_raw(node.pid()?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).context("sending SIGHUP")
        };
        let most = || -> Result<u64> {
            let status = node.ctl(["node", "status", "-o", "json"])?.expect(0)?.json()?;
            let limits = status["limits"].as_array().context("no limits")?;
            let requests = limits.iter().find(|limit| limit["name"] == "requests").context("no limit of requests")?;
            requests["per_user"].as_u64().context("no number")
        };
        let pid = node.pid()?;
        ensure!(most()? == 64, "the default is {}", most()?);
        set("[limits]\nrequests = { per_user = 7, total = 512, reserve = 4096 }\n")?;
        hang_up()?;
        wait_for("the limit is applied", || Ok(most()? == 7))?;
        set("[limits]\nrequests = { per_user = 9, total = 512, reserve = 4096 }\nstreams = { per_user = 0 }\n")?;
        hang_up()?;
        let refused = || Ok(node.daemon_log().contains("the configuration has mistakes: the present one stays in use"));
        wait_for("the mistake is reported", refused)?;
        ensure!(most()? == 7, "a configuration with a mistake was applied");
        set("ring_kib = 64\n")?;
        hang_up()?;
        wait_for("the limit is back", || Ok(most()? == 64))?;
        wait_for("what needs a restart is named", || Ok(node.daemon_log().contains("needs_a_restart=\"ring_kib\"")))?;
        ensure!(node.pid()? == pid, "the daemon was restarted");
        Ok(())
    })
}
