//! The watcher of `failsafectl run`: what it prints while the run is frozen and killed.

use anyhow::{Result, ensure};
use integration::{Node, on_node, wait_for};
use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Stdio},
};

const PLAIN: &str = r#"
[policy]
name = "plain"
version = 1
owner = "tests@example.org"
"#;

/// A run `watched` with its watcher, which has registered it, and the file of the watcher's messages.
fn watched(node: &Node) -> Result<(Child, PathBuf)> {
    let policy = node.policy("p", PLAIN)?;
    let messages = node.file("watcher.err");
    let mut ctl = node.ctl_command(["run", "--user", "nobody", "--name", "watched", "--policy"]);
    ctl.arg(policy).args(["--", "sleep", "600"]).stdin(Stdio::null()).stderr(File::create(&messages)?);
    let watcher = ctl.spawn()?;
    wait_for("the run is registered", || Ok(std::fs::read_to_string(&messages)?.contains(" pinned to ")))?;
    Ok((watcher, messages))
}

#[test]
fn the_watcher_prints_who_froze_and_killed_the_run_and_ends_with_its_code() -> Result<()> {
    on_node("watcher", "", |node| {
        let (mut watcher, messages) = watched(node)?;
        let printed = |text: &str| Ok(std::fs::read_to_string(&messages)?.contains(text));
        node.ctl(["freeze", "watched", "--reason", "looks odd"])?.expect(0)?;
        wait_for("the freeze is printed", || printed("the run was frozen by user 0 (root, admin): looks odd"))?;
        ensure!(printed("failsafectl explain inc-")?, "the next command is not shown");
        node.ctl(["kill", "watched", "--reason", "not wanted"])?.expect(0)?;
        let status = watcher.wait()?;
        ensure!(status.code() == Some(128 + 9), "it ended with {status}");
        ensure!(
            printed("the run was killed by user 0 (root, admin): not wanted")?,
            "{}",
            std::fs::read_to_string(&messages)?
        );
        Ok(())
    })
}

#[test]
fn the_watcher_follows_its_run_again_after_the_daemon_was_restarted() -> Result<()> {
    on_node("watcher-restart", "", |node| {
        let (mut watcher, messages) = watched(node)?;
        let printed = |text: &str| Ok(std::fs::read_to_string(&messages)?.contains(text));
        node.kill9()?;
        wait_for("the loss of the daemon is printed", || printed("lost the daemon, trying again"))?;
        node.restart()?;
        wait_for("the watcher follows the run again", || printed("follows the run again"))?;
        node.ctl(["kill", "watched", "--reason", "not wanted"])?.expect(0)?;
        let status = watcher.wait()?;
        ensure!(status.code() == Some(128 + 9), "it ended with {status}");
        ensure!(
            printed("the run was killed by user 0 (root, admin): not wanted")?,
            "{}",
            std::fs::read_to_string(&messages)?
        );
        Ok(())
    })
}
