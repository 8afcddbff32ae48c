//! Ways out of the run's cgroup, where its bounds hang.

use super::{Attempt, Scene};
use crate::sys::{fs as kernel, net, process};
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

pub(super) const ALL: &[Attempt] = &[
    ("move-self", |s| enter(s.path()?, std::process::id())),
    ("move-child", move_child),
    ("clone-into", clone_into),
    ("clone-into-and-fork", clone_into_and_fork),
    ("move-by-nested", move_by_nested),
    ("move-by-own-mount", move_by_own_mount),
    ("move-and-send", move_and_send),
];

fn enter(cgroup: &Path, pid: u32) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    fs::write(&file, pid.to_string()).with_context(|| format!("writing {}", file.display()))
}

/// Lives until it is killed.
fn live() -> i32 {
    loop {
        nix::unistd::pause();
    }
}

fn move_child(scene: &Scene) -> Result<()> {
    let child = process::fork(live).context("fork")?;
    enter(scene.path()?, u32::try_from(child)?)
}

/// The child's first instruction is outside.
fn clone_into(scene: &Scene) -> Result<()> {
    let outside = File::open(scene.path()?).context("opening the cgroup")?;
    process::clone_into(outside, live).context("clone3").map(drop)
}

/// The child that is born outside makes others there, each of which makes the next and ends: whoever is to be brought back by
/// its number is gone.
fn clone_into_and_fork(scene: &Scene) -> Result<()> {
    const GENERATIONS: usize = 50;
    let outside = File::open(scene.path()?).context("opening the cgroup")?;
    process::clone_into(outside, || {
        for _ in 0..GENERATIONS {
            match process::fork_into_child() {
                Ok(None) => {}
                _ => return 0,
            }
        }
        live()
    })
    .context("clone3")
    .map(drop)
}

/// Where this process is, as a folder; the cgroup outside is a sister of one of its parents.
pub(super) fn here(scene: &Scene) -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
    Ok(scene.folder()?.join(path))
}

/// First down, into a cgroup of its own making, then out.
fn move_by_nested(scene: &Scene) -> Result<()> {
    let nested = here(scene)?.join("nested");
    fs::create_dir(&nested).context("making a cgroup below")?;
    enter(&nested, std::process::id())?;
    enter(scene.path()?, std::process::id())
}

/// Through a mount of cgroup2 that nobody else sees.
fn move_by_own_mount(scene: &Scene) -> Result<()> {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    let outside = scene.path()?.strip_prefix(scene.folder()?).context("the cgroup is not below the mount")?.to_owned();
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("a private mount tree")?;
    let tree = kernel::new_mount(c"cgroup2").context("fsmount")?;
    kernel::attach_mount(&tree, c"/mnt").context("move_mount")?;
    enter(&Path::new("/mnt").join(outside), std::process::id())
}

/// Out, and at once to where nothing may go, before anybody can bring it back.
fn move_and_send(scene: &Scene) -> Result<()> {
    enter(scene.path()?, std::process::id())?;
    let to = scene.to()?;
    ensure!(to.is_ipv4(), "--to is no IPv4 address");
    let socket = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).context("socket")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(to)).context("sendto")?;
    Ok(())
}
