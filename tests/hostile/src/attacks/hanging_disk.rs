//! The disk of the state folder hangs while another run ends: its end is to be written there.

use crate::{Judge, disk::Disk, judge::all};
use anyhow::Result;
use integration::{Launch, skip, wait_for};
use nix::unistd::geteuid;
use procfs::process::Process;

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn hanging_disk(judge: &mut dyn Judge) -> Result<()> {
    if !geteuid().is_root() {
        skip("not root");
        return Ok(());
    }
    let disk = match Disk::new(64) {
        Ok(disk) => disk,
        Err(error) => {
            skip(&format!("no disk that can hang: {error:#}"));
            return Ok(());
        }
    };
    let state = disk.path().join("state");
    judge.withstand("disk", &format!("state_dir = {:?}\n", state.display().to_string()), &mut |node, strike| {
        node.use_state_dir(&state);
        let policy = "[policy]\nname = \"other\"\nowner = \"tests\"\n";
        let other = Launch::new("other", policy).user("root").start(node, ["sleep", "300"])?;
        let mount = disk.path();
        let hang = disk.hang(&mount)?;
        let cgroup = other.cgroup().to_owned();
        drop(other);
        // Its cgroup is removed just before its end is written.
        wait_for("the daemon sees its end", || Ok(!cgroup.exists()))?;
        let daemon = Process::new(node.pid()?)?;
        wait_for("a thread of the daemon waits for the disk", || {
            Ok(daemon.tasks()?.flatten().filter_map(|task| task.stat().ok()).any(|stat| stat.state == 'D'))
        })?;
        let struck = all(node, strike);
        drop(hang);
        struck
    })
}
