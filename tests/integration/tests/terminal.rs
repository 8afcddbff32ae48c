//! `failsafectl run` at a terminal, and with outputs that nobody reads. `script` of util-linux is the terminal.

use anyhow::{Context, Result, ensure};
use integration::{Node, on_node, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    io::{Write, pipe},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

const PLAIN: &str = r#"
[policy]
name = "plain"
version = 1
owner = "tests@example.org"
"#;

/// What `^C` sends.
const INTERRUPT: &[u8] = b"\x03";

/// A run `held` that was started at a terminal, as this user.
struct AtTerminal {
    script: Child,
    typed: ChildStdin,
    printed: PathBuf,
}

impl AtTerminal {
    fn start(node: &Node, user: &str) -> Result<AtTerminal> {
        let policy = node.policy("p", PLAIN)?;
        let ctl = node.ctl_command(["run", "--name", "held", "--user", user, "--policy"]);
        let mut line = ctl.get_program().display().to_string();
        for argument in ctl.get_args() {
            line.push_str(&format!(" {}", argument.display()));
        }
        // The default action of SIGINT ends `sleep`, also a frozen one.
        line.push_str(&format!(" {} -- sleep 600; echo ended with $?; exec sleep 600", policy.display()));
        let printed = node.file("terminal");
        let mut script = Command::new("script");
        script
            .args(["-q", "-e", "-f", "-c", &line, "/dev/null"])
            .envs(ctl.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let mut script = script
            .env_remove("SUDO_UID")
            .stdin(Stdio::piped())
            .stdout(File::create(&printed)?)
            .stderr(Stdio::inherit())
            .spawn()
            .context("starting script of util-linux")?;
        let typed = script.stdin.take().context("no standard input")?;
        let terminal = AtTerminal { script, typed, printed };
        wait_for("the run is registered", || terminal.has(" pinned to "))?;
        Ok(terminal)
    }

    fn has(&self, text: &str) -> Result<bool> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.printed)?).contains(text))
    }

    /// The shell at the terminal.
    fn shell(&self) -> Result<u32> {
        child(self.script.id())
    }

    fn interrupt(&mut self) -> Result<()> {
        Ok(self.typed.write_all(INTERRUPT).and_then(|()| self.typed.flush())?)
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ended = self.script.kill().and_then(|()| self.script.wait());
    }
}

/// The child of a process.
fn child(pid: u32) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().next().with_context(|| format!("process {pid} has no child"))?.parse()?)
}

/// Proves that the run is frozen and has its process.
fn stands_still(node: &Node) -> Result<()> {
    let run = node.run("held")?;
    ensure!(run["state"] == "frozen" && run["processes"] == 1, "{run}");
    let path = node.mount().join(run["cgroup"].as_str().context("no cgroup")?.trim_start_matches('/'));
    let events = std::fs::read_to_string(path.join("cgroup.events"))?;
    ensure!(events.contains("populated 1") && events.contains("frozen 1"), "{events}");
    Ok(())
}

fn ctrl_c_leaves_a_frozen_run(node: &Node, user: &str) -> Result<()> {
    let mut terminal = AtTerminal::start(node, user)?;
    node.ctl(["freeze", "held", "--reason", "test"])?.expect(0)?;
    wait_for("the freeze is printed", || terminal.has("the run was frozen by"))?;
    // The keys are taken at the next turn of the watcher.
    wait_for("the keys of the terminal make no signals", || keys_are_taken(&terminal, user))?;
    terminal.interrupt()?;
    wait_for("the first one is answered", || terminal.has("press Ctrl-C again to leave it frozen"))?;
    stands_still(node)?;
    terminal.interrupt()?;
    wait_for("the second one ends the watcher", || terminal.has("ended with 3"))?;
    stands_still(node)?;
    node.ctl(["kill", "held", "--reason", "test"])?.expect(0)?;
    Ok(())
}

/// Whether `^C` at the terminal is only a byte by now. With a terminal of its own for the command it always is.
fn keys_are_taken(terminal: &AtTerminal, user: &str) -> Result<bool> {
    if user != "root" {
        return Ok(true);
    }
    // It must not become the terminal of this test.
    let path = format!("/proc/{}/fd/0", terminal.shell()?);
    let file = File::options().read(true).custom_flags(nix::libc::O_NOCTTY).open(path)?;
    let settings = nix::sys::termios::tcgetattr(&file)?;
    Ok(!settings.local_flags.contains(nix::sys::termios::LocalFlags::ISIG))
}

#[test]
fn ctrl_c_does_not_end_a_frozen_run_that_shares_the_terminal() -> Result<()> {
    on_node("terminal-shared", "", |node| ctrl_c_leaves_a_frozen_run(node, "root"))
}

#[test]
fn ctrl_c_does_not_end_a_frozen_run_of_another_user() -> Result<()> {
    on_node("terminal-other", "", |node| ctrl_c_leaves_a_frozen_run(node, "nobody"))
}

#[test]
fn a_run_of_another_user_outlives_its_watcher() -> Result<()> {
    on_node("terminal-killed", "", |node| {
        let terminal = AtTerminal::start(node, "nobody")?;
        let watcher = child(terminal.shell()?)?;
        kill(Pid::from_raw(i32::try_from(watcher)?), Signal::SIGKILL)?;
        drop(terminal);
        // A run whose process had ended could not be frozen with one process.
        node.ctl(["freeze", "held", "--reason", "test"])?.expect(0)?;
        stands_still(node)?;
        node.ctl(["kill", "held", "--reason", "test"])?.expect(0)?;
        Ok(())
    })
}

#[test]
fn sigterm_to_the_watcher_leaves_a_frozen_run() -> Result<()> {
    on_node("watcher-term", "", |node| {
        let policy = node.policy("p", PLAIN)?;
        let messages = node.file("watcher.err");
        let mut ctl = node.ctl_command(["run", "--user", "nobody", "--name", "held", "--policy"]);
        ctl.arg(policy).args(["--", "sleep", "600"]).stdin(Stdio::null()).stderr(File::create(&messages)?);
        let mut watcher = ctl.spawn()?;
        let printed = |text: &str| Ok(std::fs::read_to_string(&messages)?.contains(text));
        wait_for("the run is registered", || printed(" pinned to "))?;
        node.ctl(["freeze", "held", "--reason", "test"])?.expect(0)?;
        wait_for("the freeze is printed", || printed("the run was frozen by"))?;
        kill(Pid::from_raw(i32::try_from(watcher.id())?), Signal::SIGTERM)?;
        let status = watcher.wait()?;
        ensure!(status.code() == Some(3), "it ended with {status}");
        ensure!(printed("SIGTERM is not passed on: the run is frozen")?, "{}", std::fs::read_to_string(&messages)?);
        stands_still(node)?;
        node.ctl(["kill", "held", "--reason", "test"])?.expect(0)?;
        Ok(())
    })
}

#[test]
fn a_command_is_executed_although_nobody_can_read_what_failsafectl_prints() -> Result<()> {
    on_node("stderr-full", "", |node| {
        let policy = node.policy("p", PLAIN)?;
        for extra in [&[][..], &["--no-watch"]] {
            let mut ctl = node.ctl_command(["run", "--user", "nobody", "--policy"]);
            ctl.arg(&policy)
                .args(extra)
                .args(["--", "sh", "-c", "exit 23"])
                .stderr(File::options().write(true).open("/dev/full")?);
            let status = ctl.status()?;
            ensure!(status.code() == Some(23), "{extra:?}: {status}");
        }
        Ok(())
    })
}

#[test]
fn the_exit_code_of_an_answer_does_not_depend_on_its_reader() -> Result<()> {
    on_node("stdout-closed", "", |node| {
        node.ctl(["node", "cordon", "--reason", "test"])?.expect(0)?;
        let expected = node.ctl(["node", "health"])?.code;
        let (reader, writer) = pipe()?;
        drop(reader);
        let status = node.ctl_command(["node", "health"]).stdout(writer).stderr(Stdio::null()).status()?;
        ensure!(status.code() == Some(expected) && expected != 0, "{status}, with a reader {expected}");
        Ok(())
    })
}

#[test]
fn a_command_that_has_ended_is_started_again_at_once_with_its_name_and_lineage() -> Result<()> {
    on_node("again-at-once", "", |node| {
        let policy = node.policy("p", PLAIN)?;
        for round in 0..3 {
            let mut ctl = node.ctl_command(["run", "-q", "--user", "nobody", "--name", "same", "--lineage", "loop"]);
            let status = ctl.arg("--policy").arg(&policy).args(["--", "true"]).status()?;
            ensure!(status.success(), "start {round} ended with {status}");
        }
        Ok(())
    })
}
