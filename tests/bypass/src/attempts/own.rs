//! failsafe's own: its processes, pins, maps, sockets and records.

use super::{Attempt, Scene, cgroup::here};
use crate::sys::{bpf, fs as kernel, net, process};
use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub(super) const ALL: &[Attempt] = &[
    ("kill-daemon", |s| signal(s, Signal::SIGKILL)),
    ("stop-daemon", |s| signal(s, Signal::SIGSTOP)),
    ("trace-daemon", |s| process::seize(s.pid()?).context("ptrace")),
    ("renice-daemon", |s| process::renice(s.pid()?, 10).context("setpriority")),
    ("limit-daemon", |s| process::limit_files(s.pid()?).context("prlimit")),
    ("offer-daemon-to-oom", offer_to_oom),
    ("kill-daemon-and-send", kill_and_send),
    ("remove-pins", remove_pins),
    ("mount-over-pins", mount_over),
    ("write-state", |s| fs::write(s.path()?.join("intruder"), "x").context("writing into the state folder")),
    ("append-to-log", append_to_log),
    ("remove-socket", |s| fs::remove_file(s.path()?).context("unlink")),
    ("detach-links-and-send", detach_and_send),
    ("clear-maps-and-send", clear_and_send),
];

fn signal(scene: &Scene, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(scene.pid()?), signal).context("kill")
}

/// When memory is short it is to end first.
fn offer_to_oom(scene: &Scene) -> Result<()> {
    let file = format!("/proc/{}/oom_score_adj", scene.pid()?);
    fs::write(&file, "999").with_context(|| format!("writing {file}"))
}

fn send(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).context("socket")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

/// The bounds outlive whoever set them, or do they.
fn kill_and_send(scene: &Scene) -> Result<()> {
    // Refused or not: what counts is what the run may do afterwards.
    if let Err(error) = signal(scene, Signal::SIGKILL) {
        eprintln!("the daemon lives: {error:#}");
    }
    send(scene)
}

/// Every file below.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn remove_pins(scene: &Scene) -> Result<()> {
    let pins = files(scene.path()?)?;
    ensure!(!pins.is_empty(), "nothing is pinned");
    pins.iter().try_for_each(|pin| fs::remove_file(pin).with_context(|| format!("unlink {}", pin.display())))
}

fn mount_over(scene: &Scene) -> Result<()> {
    let tree = kernel::new_mount(c"tmpfs").context("fsmount")?;
    kernel::attach_mount(&tree, &process::c_text(scene.path()?)?).context("move_mount")
}

fn append_to_log(scene: &Scene) -> Result<()> {
    let all = files(scene.path()?)?;
    let log = all.iter().find(|path| path.components().any(|c| c.as_os_str() == "audit")).context("no log")?;
    OpenOptions::new().append(true).open(log).context("opening the log")?.write_all(b"intruder").context("writing")
}

/// Takes every program off the run's own cgroup.
fn detach_and_send(scene: &Scene) -> Result<()> {
    let cgroup = fs::metadata(here(scene)?).context("the run's cgroup")?.ino();
    let (mut id, mut cut) = (0, 0);
    while let Some(next) = bpf::next_link(id).context("BPF_LINK_GET_NEXT_ID")? {
        id = next;
        // A link may end between the two calls.
        let Ok(link) = bpf::link(id) else { continue };
        if bpf::cgroup_of(&link).context("BPF_OBJ_GET_INFO_BY_FD")? == Some(cgroup) {
            bpf::detach(&link).context("BPF_LINK_DETACH")?;
            cut += 1;
        }
    }
    ensure!(cut > 0 || scene.unbounded, "no link hangs on the run's cgroup");
    send(scene)
}

/// Empties what the programs go by.
fn clear_and_send(scene: &Scene) -> Result<()> {
    let mut cleared = 0;
    for pin in files(scene.path()?)? {
        let name = pin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !["map_control", "map_runs"].contains(&name.as_str()) {
            continue;
        }
        let map = bpf::pinned(&process::c_text(&pin)?).with_context(|| format!("BPF_OBJ_GET {}", pin.display()))?;
        match bpf::clear_first(&map, &mut [0; 64], &[0; 4096]) {
            // Of no run.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && scene.unbounded => {}
            other => other.with_context(|| format!("BPF_MAP_UPDATE {name}"))?,
        }
        cleared += 1;
    }
    ensure!(cleared > 0, "no map of that name is pinned");
    send(scene)
}
