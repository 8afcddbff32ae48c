//! Reports values to failsafed for one client: a connection to the metrics socket, over which the client's connection is passed.
//!
//! Whose the values are, failsafed reads from that connection; nothing here says it.

use anyhow::{Context, Result, bail};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::{
    io::IoSlice,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::UnixStream,
};

/// failsafed answers within this time, or the client is asked to send again.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const LONGEST: u64 = 4_096;

/// What became of values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// How many failsafed took.
    pub accepted: u64,
    /// How many it refused, with those that the gateway refused.
    pub refused: u64,
    /// The first reason.
    pub why: String,
}

/// Reports for one client.
pub struct Reporter {
    /// failsafed's metrics socket for streams.
    path: PathBuf,
    client: OwnedFd,
    daemon: Option<UnixStream>,
}

impl Reporter {
    /// For the client at the other end of `client`, an accepted connection.
    pub fn new(path: PathBuf, client: OwnedFd) -> Reporter {
        Reporter { path, client, daemon: None }
    }

    /// Sends lines and reads what became of them.
    ///
    /// # Errors
    /// failsafed does not answer. How many of the values it took is not known then.
    pub async fn report(&mut self, lines: &str) -> Result<Answer> {
        let mut daemon = match self.daemon.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        let answer = tokio::time::timeout(ANSWER, ask(&mut daemon, lines))
            .await
            .with_context(|| format!("failsafed did not answer within {} s", ANSWER.as_secs()))??;
        self.daemon = Some(daemon);
        Ok(answer)
    }

    async fn connect(&self) -> Result<UnixStream> {
        let path = self.path.display();
        let mut daemon = tokio::time::timeout(ANSWER, UnixStream::connect(&self.path))
            .await
            .with_context(|| format!("{path}: failsafed does not accept connections"))?
            .with_context(|| format!("cannot connect to {path}"))?;
        let first = tokio::time::timeout(ANSWER, ask(&mut daemon, "")).await.context("failsafed does not answer")??;
        if first.refused > 0 {
            bail!(
                "failsafed takes no metrics from this process: `receive = true` in [gateway] of failsafed.toml is needed"
            );
        }
        let files = [self.client.as_raw_fd()];
        let pass = || {
            let bytes = [IoSlice::new(b"!peer\n")];
            let rights = [ControlMessage::ScmRights(&files)];
            sendmsg::<()>(daemon.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None).map_err(Into::into)
        };
        // A new connection has room for the six bytes: they are sent whole.
        daemon.async_io(Interest::WRITABLE, pass).await.with_context(|| format!("cannot write to {path}"))?;
        Ok(daemon)
    }
}

async fn ask(daemon: &mut UnixStream, lines: &str) -> Result<Answer> {
    let sent = async {
        daemon.write_all(lines.as_bytes()).await?;
        daemon.write_all(b"?\n").await
    };
    let sent = sent.await;
    // A connection that failsafed refuses at once is answered all the same.
    let mut text = String::new();
    let read = BufReader::new(daemon.take(LONGEST)).read_line(&mut text).await;
    if text.is_empty() {
        sent.context("failsafed closed the connection")?;
        read.context("failsafed's answer cannot be read")?;
    }
    answer(text.trim())
}

/// `accepted A refused R [REASON]`.
fn answer(text: &str) -> Result<Answer> {
    let mut words = text.splitn(5, ' ');
    let mut number = |word: &str| {
        let found = words.next() == Some(word);
        words.next().filter(|_| found).and_then(|number| number.parse::<u64>().ok())
    };
    let (Some(accepted), Some(refused)) = (number("accepted"), number("refused")) else {
        bail!("failsafed's answer is not `accepted A refused R [REASON]`");
    };
    Ok(Answer { accepted, refused, why: words.next().unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_both_counts_and_perhaps_a_reason() {
        let full = answer("accepted 3 refused 2 the name is not valid").unwrap();
        assert_eq!(full, Answer { accepted: 3, refused: 2, why: "the name is not valid".into() });
        assert_eq!(answer("accepted 0 refused 0").unwrap(), Answer::default());
        for bad in ["", "accepted", "accepted x refused 1", "accepted 1", "1 2", "refused 1 accepted 1"] {
            assert!(answer(bad).is_err(), "{bad}");
        }
    }
}
