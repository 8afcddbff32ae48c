//! `cargo xtask vm --install`: the Debian package on a booted Debian 12. The same disk is started twice, which is the reboot.

use super::{Kernel, TOOLS, folder, image, impossible, machine::Machine};
use crate::{dist, setup, shell};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const SCRIPT: &str = include_str!("install.sh");
/// What the script prints when nothing is left to do.
const DONE: &str = "all steps passed";
/// As a node starts; and then the script.
const WHOLE_SYSTEM: &str = "systemd.unit=multi-user.target systemd.wants=failsafe-vm.service";

/// Builds two revisions of the package from the debug build, and runs the script.
///
/// # Errors
/// A machine cannot be made, or a step failed; it is named.
pub fn run(limit: Duration) -> Result<()> {
    if let Some(why) = impossible() {
        bail!("{why}");
    }
    setup::packages(&TOOLS)?;
    let begin = Instant::now();
    let folder = folder();
    let own = folder.join("install");
    let payload = own.join("payload");
    if own.exists() {
        fs::remove_dir_all(&own).with_context(|| format!("emptying {}", own.display()))?;
    }
    fs::create_dir_all(payload.join("vm")).with_context(|| format!("making {}", payload.display()))?;
    for (revision, name) in [("1", "old.deb"), ("2", "new.deb")] {
        let built = dist::build(true, revision)?;
        fs::copy(&built.package, payload.join("vm").join(name)).with_context(|| format!("copying {name}"))?;
    }
    fs::write(payload.join("vm/guest.sh"), SCRIPT).context("writing the script")?;
    let disk = own.join("payload.ext4");
    image::disk(&payload, &disk, 64)?;

    let kernel = Kernel::ALL[0];
    let unpacked = kernel.unpacked(&folder)?;
    let root = own.join("root.ext4");
    copy(&image::root(&unpacked, &folder)?, &root)?;
    let mut machine = Machine {
        kernel,
        boot: unpacked.boot()?,
        initramfs: image::initramfs(&unpacked)?,
        image: root,
        payload: disk,
        folder: own.join("first"),
        limit,
        keeps: true,
        starts: WHOLE_SYSTEM,
    };
    steps(&machine, "reboot")?;
    machine.folder = own.join("second");
    steps(&machine, DONE)?;
    println!("\nthe package was installed, upgraded, removed and purged in {} s", begin.elapsed().as_secs());
    Ok(())
}

/// Starts the machine; the last step must be this one.
fn steps(machine: &Machine, last: &str) -> Result<()> {
    let (results, problem) = machine.to_its_end("steps.txt")?;
    if let Some(problem) = problem {
        bail!("the machine {problem}");
    }
    let steps = fs::read_to_string(results.join("steps.txt")).context("reading the steps")?;
    let ended = steps.lines().last().unwrap_or_default();
    ensure!(ended.ends_with(last), "{ended}; see {}", machine.folder.join("console.log").display());
    Ok(())
}

/// A copy with the holes of the original.
fn copy(from: &Path, to: &Path) -> Result<()> {
    shell::run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to))
}
