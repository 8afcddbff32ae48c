//! The network by way of io_uring: the same calls, made by the kernel on the run's behalf, in three ways.

use super::{Attempt, Scene};
use crate::sys::{
    net,
    uring::{Ring, Submit},
};
use anyhow::{Context, Result};

pub(super) const ALL: &[Attempt] = &[
    ("uring-connect", |s| connect(s, Submit::Caller)),
    ("uring-connect-kernel-thread", |s| connect(s, Submit::KernelThread)),
    ("uring-connect-worker", |s| connect(s, Submit::Worker)),
    ("uring-send-to", |s| send_to(s, Submit::Caller)),
    ("uring-send-to-kernel-thread", |s| send_to(s, Submit::KernelThread)),
    ("uring-send-to-worker", |s| send_to(s, Submit::Worker)),
    ("uring-fast-open", fast_open),
    ("uring-mptcp-socket", mptcp),
];

fn connect(scene: &Scene, submit: Submit) -> Result<()> {
    let mut ring = Ring::new(submit).context("io_uring_setup")?;
    let socket = ring.socket(libc::AF_INET, libc::SOCK_STREAM, 0).context("socket")?;
    ring.connect(&socket, &net::bytes_of(scene.to()?)).context("connect")?;
    ring.send(&socket, scene.message()).context("send")
}

fn send_to(scene: &Scene, submit: Submit) -> Result<()> {
    let mut ring = Ring::new(submit).context("io_uring_setup")?;
    let socket = ring.socket(libc::AF_INET, libc::SOCK_DGRAM, 0).context("socket")?;
    ring.send_message(&socket, scene.message(), &net::bytes_of(scene.to()?), 0).context("sendmsg")
}

fn fast_open(scene: &Scene) -> Result<()> {
    let mut ring = Ring::new(Submit::Caller).context("io_uring_setup")?;
    let socket = ring.socket(libc::AF_INET, libc::SOCK_STREAM, 0).context("socket")?;
    let to = net::bytes_of(scene.to()?);
    ring.send_message(&socket, scene.message(), &to, libc::MSG_FASTOPEN).context("sendmsg")
}

fn mptcp(scene: &Scene) -> Result<()> {
    let mut ring = Ring::new(Submit::Caller).context("io_uring_setup")?;
    let socket = ring.socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP).context("socket")?;
    ring.connect(&socket, &net::bytes_of(scene.to()?)).context("connect")?;
    ring.send(&socket, scene.message()).context("send")
}
