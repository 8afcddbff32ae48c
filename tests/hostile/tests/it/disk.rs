//! The disk of the state folder hangs while another run ends: its end is to be written there.

use crate::victim::withstand;
use anyhow::Result;
use hostile::disk::Disk;
use integration::{Launch, skip, wait_for};
use nix::unistd::geteuid;
use std::time::Duration;

#[test]
fn a_disk_that_hangs_while_another_run_ends_delays_no_freeze() -> Result<()> {
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
    withstand("disk", &format!("state_dir = {:?}\n", state.display().to_string()), |node, strike| {
        node.use_state_dir(&state);
        let policy = "[policy]\nname = \"other\"\nowner = \"tests\"\n";
        let other = Launch::new("other", policy).user("root").start(node, ["sleep", "300"])?;
        let mount = disk.path();
        let hang = disk.hang(&mount)?;
        let cgroup = other.cgroup().to_owned();
        drop(other);
        // Its cgroup is removed just before its end is written.
        wait_for("the daemon sees its end", || Ok(!cgroup.exists()))?;
        std::thread::sleep(Duration::from_millis(100));
        let struck = strike();
        drop(hang);
        struck
    })
}
