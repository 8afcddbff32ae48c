//! A program: it gets the message as JSON on its standard input. There is no shell, and nothing of the gateway's environment.
//!
//! Invariant: nothing of the program's process group lives longer than the attempt.

use super::{Delivery, Target, quoted};
use crate::notify::message::Message;
use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, geteuid},
};
use std::{os::unix::fs::MetadataExt, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// What is read of its standard error, in bytes.
const ERRORS: u64 = 4_096;
/// How long the rest of its standard error is read after its end.
const DRAIN: Duration = Duration::from_millis(500);
/// Where a program that it calls is looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a program may be executed: nobody but root and this user can change it.
pub fn may_be_executed(program: &str) -> Result<()> {
    let found = std::fs::metadata(program).with_context(|| format!("{program} cannot be read"))?;
    ensure!(found.is_file(), "{program}: expected a regular file");
    let (owner, own) = (found.uid(), geteuid().as_raw());
    ensure!(owner == 0 || owner == own, "{program}: expected a file of root, not of user {owner}");
    ensure!(found.mode() & 0o022 == 0, "{program}: expected a file that only its owner can write");
    ensure!(found.mode() & 0o111 != 0, "{program}: expected a file that can be executed");
    Ok(())
}

/// Kills the process group when it is dropped, at the end of the attempt or when its time is over.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Target {
    pub(super) async fn exec(&self, message: &Message) -> Result<Delivery> {
        let (program, arguments) = self.command.split_first().context("there is no program")?;
        may_be_executed(program)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{program} cannot be executed"))?;
        // Its leader is waited for after the group is killed: the number is not another group's meanwhile.
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let text = serde_json::to_vec(&super::super::json(message))?;
        let (mut input, errors) =
            (child.stdin.take().context("its input")?, child.stderr.take().context("its errors")?);
        let mut said = Vec::new();
        let status = {
            let written = async {
                // A program that does not read the message may be content without it.
                let _ended = input.write_all(&text).await;
                drop(input);
            };
            let read = async {
                let mut errors = errors.take(ERRORS);
                let _ended = errors.read_to_end(&mut said).await;
                // What it writes beyond that must not stop it.
                let _ended = tokio::io::copy(&mut errors.into_inner(), &mut tokio::io::sink()).await;
            };
            tokio::pin!(written, read);
            let (mut wrote, mut has_read) = (false, false);
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status?,
                    () = &mut written, if !wrote => wrote = true,
                    () = &mut read, if !has_read => has_read = true,
                }
            };
            drop(group);
            if !has_read {
                // A process of it that left its group can keep the standard error open: it is not waited for.
                let _rest = tokio::time::timeout(DRAIN, read).await;
            }
            status
        };
        if status.success() {
            return Ok(Delivery::Sent);
        }
        bail!("{program} ended with {status}: {}", quoted(&String::from_utf8_lossy(&said)))
    }
}
