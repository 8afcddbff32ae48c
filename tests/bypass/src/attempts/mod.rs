//! What runs inside: one function an attempt, by subject. An attempt does its work by the way its name says, and gives the
//! first refusal that stopped it.

mod cgroup;
mod exec;
mod flood;
mod listed;
mod own;
mod paths;
mod process;
mod sockets;
mod uring;
mod wire;

use anyhow::{Context, Result};
use nix::errno::Errno;
use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// What the test outside tells the attempt. Each reads what it needs.
#[derive(Debug, Default, clap::Args)]
pub struct Scene {
    /// Where nothing may go
    #[arg(long)]
    to: Option<SocketAddr>,
    /// Where something may go
    #[arg(long)]
    home: Option<SocketAddr>,
    /// What is sent, so that it is known outside
    #[arg(long, default_value = "")]
    token: String,
    /// A descriptor that was open before the run began
    #[arg(long)]
    fd: Option<i32>,
    /// A process outside
    #[arg(long)]
    pid: Option<i32>,
    /// A file, folder or socket outside
    #[arg(long, env = "BYPASS_MARK")]
    path: Option<PathBuf>,
    /// There are no bounds: none have to be undone first
    #[arg(long)]
    unbounded: bool,
    /// A folder of the attempt's own
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Scene {
    fn to(&self) -> Result<SocketAddr> {
        self.to.context("--to is missing")
    }

    fn home(&self) -> Result<SocketAddr> {
        self.home.context("--home is missing")
    }

    fn message(&self) -> &[u8] {
        self.token.as_bytes()
    }

    fn pid(&self) -> Result<i32> {
        self.pid.context("--pid is missing")
    }

    fn fd(&self) -> Result<i32> {
        self.fd.context("--fd is missing")
    }

    fn folder(&self) -> Result<&Path> {
        self.folder.as_deref().context("--folder is missing")
    }

    fn path(&self) -> Result<&Path> {
        self.path.as_deref().context("--path is missing")
    }
}

/// The inner part of the suite: a name and what it does.
pub type Attempt = (&'static str, fn(&Scene) -> Result<()>);

/// Every attempt.
pub fn all() -> impl Iterator<Item = Attempt> {
    let files = [exec::ALL, listed::ALL, paths::ALL].into_iter();
    [sockets::ALL, uring::ALL, wire::ALL, cgroup::ALL, process::ALL, own::ALL, flood::ALL]
        .into_iter()
        .chain(files)
        .flatten()
        .copied()
}

/// What an attempt starts as another program.
#[must_use]
pub fn mark() -> Attempt {
    exec::MARK
}

/// Says how it ended: `ANSWER ok`, or `ANSWER` with the errno's name and what was refused.
pub fn say(ended: &Result<()>) {
    let mut out = io::stdout().lock();
    let _ = match ended {
        Ok(()) => writeln!(out, "ANSWER ok"),
        Err(error) => writeln!(out, "ANSWER {} {error:#}", errno(error)),
    };
    let _ = out.flush();
}

/// The errno below the error, by name.
fn errno(error: &anyhow::Error) -> String {
    let of = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).map(Errno::from_raw);
        io.or_else(|| cause.downcast_ref::<Errno>().copied())
    };
    error.chain().find_map(of).map_or_else(|| "failed".to_owned(), |errno| format!("{errno:?}"))
}
