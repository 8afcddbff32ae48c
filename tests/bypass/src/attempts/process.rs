//! Other processes, namespaces, mounts and rights.

use super::{Attempt, Scene, say};
use crate::sys::{fs as kernel, net, process};
use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    process::Command,
};

pub(super) const ALL: &[Attempt] = &[
    ("ptrace-outside", |s| process::seize(s.pid()?).context("ptrace")),
    ("write-memory-outside", write_memory),
    ("write-memory-file-outside", write_memory_file),
    ("signal-outside", |s| kill(Pid::from_raw(s.pid()?), Signal::SIGSTOP).context("kill")),
    ("daemonise", daemonise),
    ("fork-while-registered", fork_on),
    ("unshare-user", |_| unshare(CloneFlags::CLONE_NEWUSER).context("unshare")),
    ("clone-user", |_| process::clone_user(live).context("clone3").map(drop)),
    ("unshare-mounts", |_| unshare(CloneFlags::CLONE_NEWNS).context("unshare")),
    ("enter-namespace", enter_namespace),
    ("mount", mount_old),
    ("mount-new-calls", mount_new),
    ("mount-clone", mount_clone),
    ("setuid-program", setuid_program),
    ("executable-memory", |_| process::map_executable().context("mmap")),
    ("turn-executable", |_| process::turn_executable().context("mprotect")),
];

fn live() -> i32 {
    loop {
        nix::unistd::pause();
    }
}

/// Where the arguments of the process lie, behind its name: what everybody sees in `ps`.
fn first_argument(pid: i32) -> Result<usize> {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat()).context("reading stat")?;
    let start = usize::try_from(stat.arg_start.context("no arg_start")?).context("arg_start")?;
    ensure!(start > 0, nix::errno::Errno::EPERM);
    let name = fs::read(format!("/proc/{pid}/cmdline")).context("reading cmdline")?;
    Ok(start + name.iter().position(|byte| *byte == 0).context("no arguments")? + 1)
}

fn write_memory(scene: &Scene) -> Result<()> {
    let at = first_argument(scene.pid()?)?;
    process::write_memory(scene.pid()?, at, b"666").context("process_vm_writev").map(drop)
}

fn write_memory_file(scene: &Scene) -> Result<()> {
    let at = first_argument(scene.pid()?)?;
    let memory = OpenOptions::new().write(true).open(format!("/proc/{}/mem", scene.pid()?)).context("opening mem")?;
    memory.write_all_at(b"666", u64::try_from(at)?).context("writing mem")
}

/// Forks twice, leaves the session, and acts when whoever started it has ended.
fn daemonise(scene: &Scene) -> Result<()> {
    let (to, parent) = (net::bytes_of(scene.to()?), std::process::id());
    process::fork(|| {
        let _ = setsid();
        let second = process::fork(|| {
            // What has ended, waited for or not, has no arguments any more.
            while fs::read(format!("/proc/{parent}/cmdline")).is_ok_and(|line| !line.is_empty()) {
                std::thread::yield_now();
            }
            let sent = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
                .and_then(|socket| net::send_to(&socket, scene.message(), 0, &to));
            say(&sent.context("sendto").map(drop));
            live()
        });
        i32::from(second.is_err())
    })
    .context("fork")?;
    // What the grandchild will say is the answer.
    std::process::exit(0)
}

/// A life of one datagram each: whoever has sent forks and ends, so that no look at the list of processes finds the same
/// ones twice. Every try is a byte in `--path`.
fn fork_on(scene: &Scene) -> Result<()> {
    let to = net::bytes_of(scene.to()?);
    let mut tries = OpenOptions::new().append(true).open(scene.path()?).context("opening the count")?;
    // The first stays, to be waited for.
    let first = std::process::id();
    loop {
        let sent = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
            .and_then(|socket| net::send_to(&socket, scene.message(), 0, &to));
        // Refused or not, it goes on.
        drop(sent);
        tries.write_all(b".").context("counting")?;
        match process::fork_into_child().context("fork")? {
            Some(_) if std::process::id() == first => return Ok(()),
            Some(_) => std::process::exit(0),
            None => {}
        }
    }
}

/// Into the UTS namespace of a process outside.
fn enter_namespace(scene: &Scene) -> Result<()> {
    let namespace = File::open(format!("/proc/{}/ns/uts", scene.pid()?)).context("opening the namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWUTS).context("setns")
}

fn mount_old(scene: &Scene) -> Result<()> {
    mount(Some("tmpfs"), scene.folder()?, Some("tmpfs"), MsFlags::empty(), None::<&str>).context("mount")
}

fn mount_new(scene: &Scene) -> Result<()> {
    let tree = kernel::new_mount(c"tmpfs").context("fsmount")?;
    kernel::attach_mount(&tree, &process::c_text(scene.folder()?)?).context("move_mount")
}

/// `open_tree` and `move_mount`: what a bind mount is, without `mount`.
fn mount_clone(scene: &Scene) -> Result<()> {
    let tree = kernel::clone_mount(c"/proc").context("open_tree")?;
    kernel::attach_mount(&tree, &process::c_text(scene.folder()?)?).context("move_mount")
}

/// A program that belongs to root and says so writes a file.
fn setuid_program(scene: &Scene) -> Result<()> {
    let mut program = Command::new(scene.folder()?.join("setuid"));
    let status = program.args(["mark", "--path"]).arg(scene.path()?).status().context("exec")?;
    ensure!(status.success(), "the setuid program ended with {status}");
    Ok(())
}
