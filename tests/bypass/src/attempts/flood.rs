//! So many events that the ring has no room for the one that counts.

use super::{Attempt, Scene};
use crate::sys::{net, process};
use anyhow::{Context, Result};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

pub(super) const ALL: &[Attempt] = &[
    ("flood-and-send", |s| in_the_gap(s, send)),
    ("flood-and-exec", |s| in_the_gap(s, execute)),
    ("flood-and-leave", |s| in_the_gap(s, leave)),
];

/// How long the ring is flooded before the deed: it is full long before, and nobody has looked at what was lost.
const BEFORE: Duration = Duration::from_millis(20);
/// And after it.
const AFTER: Duration = Duration::from_millis(500);

/// Connects of UDP sockets to ever other ports, by eight threads; the deed in the midst of it.
fn in_the_gap(scene: &Scene, deed: fn(&Scene) -> Result<()>) -> Result<()> {
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        for n in 0..8_u8 {
            let over = &over;
            threads.spawn(move || {
                let Ok(socket) = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) else { return };
                let mut port = 1;
                while !over.load(Ordering::Relaxed) {
                    port = if port == u16::MAX { 1 } else { port + 1 };
                    let to: SocketAddr = (Ipv4Addr::new(127, 88, 0, n), port).into();
                    let _ = net::connect(&socket, &net::bytes_of(to));
                }
            });
        }
        thread::sleep(BEFORE);
        let done = deed(scene);
        let end = Instant::now() + AFTER;
        while Instant::now() < end {
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn send(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).context("socket")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

fn execute(scene: &Scene) -> Result<()> {
    let status = Command::new(scene.folder()?.join("forbidden"))
        .args(["mark", "--path"])
        .arg(scene.path()?)
        .status()
        .context("exec")?;
    anyhow::ensure!(status.success(), "the program ended with {status}");
    Ok(())
}

/// How many leave: the word of one of them may find room in the ring, and of all that do so in one breath.
const LEAVERS: usize = 64;
/// So that each leaves at another moment of the flood.
const BETWEEN: Duration = Duration::from_millis(4);

fn leave(scene: &Scene) -> Result<()> {
    for _ in 0..LEAVERS {
        let child = process::fork(|| {
            loop {
                nix::unistd::pause();
            }
        })
        .context("fork")?;
        fs::write(scene.path()?.join("cgroup.procs"), child.to_string()).context("moving")?;
        thread::sleep(BETWEEN);
    }
    Ok(())
}
