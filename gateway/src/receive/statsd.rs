//! statsd over a unix stream socket: lines, or the frames of DogStatsD (`unixstream`: four bytes of length, little endian, before
//! each packet). There is no answer: what is refused, and what comes while failsafed does not answer, is a gap of the run.

use super::reporter::Reporter;
use failsafe_intake::{Taken, Why, statsd};
use std::time::{Duration, Instant};
use tokio::{io::AsyncReadExt, net::UnixStream};

/// Bytes that are read at once, and longest line.
const TURN: usize = 16 << 10;
/// Longest packet of DogStatsD.
const PACKET: usize = 8 << 10;
/// Bytes before a packet.
const PREFIX: usize = 4;
/// While failsafed does not answer, it is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the values of a client that has closed its connection are held against the limits of connections, until failsafed answers.
const LINGER: Duration = Duration::from_secs(30);

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

/// Reports what was read, and counts what failsafed did not answer for. The values are not held: they are of a time that has passed, and
/// the gap says that they are missing.
struct Reporting {
    reporter: Reporter,
    /// How many values failsafed did not answer for.
    away: u64,
    /// Until then failsafed is not asked.
    again: Option<Instant>,
}

impl Reporting {
    /// Whether failsafed has answered for everything.
    fn is_settled(&self) -> bool {
        self.away == 0
    }

    async fn report(&mut self, mut taken: Taken) {
        if self.again.is_some_and(|again| Instant::now() < again) {
            self.away = self.away.saturating_add(taken.count());
            return;
        }
        let own = taken.count();
        taken.refuse_many(Why::Away, self.away);
        match self.reporter.report(&taken.lines()).await {
            Ok(_) => (self.away, self.again) = (0, None),
            Err(error) => {
                if self.again.is_none() {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "values of statsd cannot be reported: they are counted, and a gap of their run when failsafed answers"
                    );
                }
                (self.away, self.again) = (self.away.saturating_add(own), Some(Instant::now() + AGAIN));
            }
        }
    }
}

/// Reads until the client closes, or sends nothing for `idle`.
///
/// # Errors
/// What ended it before.
pub(super) async fn serve(mut stream: UnixStream, reporter: Reporter, idle: Duration) -> anyhow::Result<()> {
    let (mut pending, mut buffer) = (Pending::default(), vec![0; TURN]);
    let mut reporting = Reporting { reporter, away: 0, again: None };
    let read = read(&mut stream, &mut pending, &mut buffer, &mut reporting, idle).await;
    if let Err(error) = &read
        && error.is::<Bad>()
    {
        let mut bad = Taken::default();
        bad.refuse_many(Why::Size, 1);
        reporting.report(bad).await;
    }
    let until = Instant::now() + LINGER;
    while !reporting.is_settled() {
        if Instant::now() >= until {
            tracing::warn!(
                values = reporting.away,
                "values of statsd are lost without a gap: failsafed does not answer"
            );
            break;
        }
        tokio::time::sleep(AGAIN).await;
        reporting.report(Taken::default()).await;
    }
    read
}

async fn read(
    stream: &mut UnixStream,
    pending: &mut Pending,
    buffer: &mut [u8],
    reporting: &mut Reporting,
    idle: Duration,
) -> anyhow::Result<()> {
    let mut heard = Instant::now();
    loop {
        let left = idle.saturating_sub(heard.elapsed());
        // What is missing is reported also if the client sends nothing more.
        let wait = if reporting.is_settled() { left } else { left.min(AGAIN) };
        let read = match tokio::time::timeout(wait, stream.read(buffer)).await {
            Ok(read) => read?,
            Err(_) if heard.elapsed() < idle => {
                reporting.report(Taken::default()).await;
                continue;
            }
            Err(_) => anyhow::bail!("it was idle for too long"),
        };
        heard = Instant::now();
        if read == 0 {
            // The last line needs no end.
            if pending.framed != Some(true) && !pending.bytes.is_empty() {
                reporting.report(statsd::datagram(&pending.bytes)).await;
            }
            return Ok(());
        }
        pending.bytes.extend_from_slice(&buffer[..read]);
        for taken in pending.complete()? {
            reporting.report(taken).await;
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
