//! statsd over a unix stream socket: lines, or the frames of DogStatsD (`unixstream`: four bytes of length, little endian, before
//! each packet). There is no answer: what is refused is a gap of the run.

use super::reporter::Reporter;
use anyhow::Context;
use failsafe_intake::{Taken, statsd};
use std::time::Duration;
use tokio::{io::AsyncReadExt, net::UnixStream};

/// Bytes that are read at once, and longest line.
const TURN: usize = 16 << 10;
/// Longest packet of DogStatsD.
const PACKET: usize = 8 << 10;
/// Bytes before a packet.
const PREFIX: usize = 4;

/// What has come and is not read yet.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Whether there are frames; `None`: too little has come.
    framed: Option<bool>,
}

/// What cannot be read on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Bad {
    #[error("a line is longer than {TURN} bytes")]
    Line,
    #[error("a packet is longer than {PACKET} bytes")]
    Packet,
}

impl Pending {
    /// Takes what is complete.
    fn complete(&mut self) -> Result<Vec<Taken>, Bad> {
        let framed = match (self.framed, self.bytes.first_chunk::<PREFIX>()) {
            (Some(known), _) => known,
            // Text has no zero byte, and the length of a packet has two.
            (None, Some(first)) => *self.framed.insert(first[2] == 0 && first[3] == 0),
            (None, None) => return Ok(Vec::new()),
        };
        let mut taken = Vec::new();
        if !framed {
            if let Some(end) = self.bytes.iter().rposition(|byte| *byte == b'\n') {
                taken.push(statsd::datagram(&self.bytes[..end]));
                self.bytes.drain(..=end);
            }
            return if self.bytes.len() > TURN { Err(Bad::Line) } else { Ok(taken) };
        }
        let mut from = 0;
        while let Some(prefix) = self.bytes.get(from..).and_then(<[u8]>::first_chunk::<PREFIX>) {
            let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
            if length > PACKET {
                return Err(Bad::Packet);
            }
            let Some(packet) = self.bytes.get(from + PREFIX..from + PREFIX + length) else { break };
            taken.push(statsd::datagram(packet));
            from += PREFIX + length;
        }
        self.bytes.drain(..from);
        Ok(taken)
    }
}

/// Reads until the client closes, or sends nothing for `idle`.
///
/// # Errors
/// What ended it before.
pub(super) async fn serve(mut stream: UnixStream, mut reporter: Reporter, idle: Duration) -> anyhow::Result<()> {
    let (mut pending, mut buffer) = (Pending::default(), vec![0; TURN]);
    loop {
        let read = tokio::time::timeout(idle, stream.read(&mut buffer)).await.context("it was idle for too long")??;
        if read == 0 {
            // The last line needs no end.
            if pending.framed != Some(true) && !pending.bytes.is_empty() {
                reporter.report(&statsd::datagram(&pending.bytes).lines()).await?;
            }
            return Ok(());
        }
        pending.bytes.extend_from_slice(&buffer[..read]);
        for taken in pending.complete()? {
            reporter.report(&taken.lines()).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pending: &mut Pending, bytes: &[u8]) -> Result<String, Bad> {
        pending.bytes.extend_from_slice(bytes);
        Ok(pending.complete()?.iter().map(Taken::lines).collect())
    }

    #[test]
    fn lines_are_taken_when_they_are_complete() {
        let mut pending = Pending::default();
        assert_eq!(lines(&mut pending, b"lo").unwrap(), "");
        assert_eq!(lines(&mut pending, b"ss:2.5|g\nacc:1").unwrap(), "loss 2.5e0\n");
        assert_eq!(lines(&mut pending, b"|g\nx\n").unwrap(), "!refused 1 format\nacc 1e0\n");
        assert_eq!(lines(&mut pending, &[b'a'; TURN + 1]), Err(Bad::Line));
    }

    #[test]
    fn packets_are_taken_when_they_are_complete() {
        let packet = |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text].concat();
        let mut pending = Pending::default();
        let bytes = [packet(b"loss:2.5|g\nacc:1|g"), packet(b"x:3|g")].concat();
        let mut got = String::new();
        for byte in &bytes {
            got += &lines(&mut pending, &[*byte]).unwrap();
        }
        assert_eq!(got, "loss 2.5e0\nacc 1e0\nx 3e0\n");
        assert_eq!(lines(&mut pending, &[0, 0x30, 0, 0]), Err(Bad::Packet));
    }
}
