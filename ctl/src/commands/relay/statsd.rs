//! statsd: each datagram of a process of the run becomes a frame on one connection to the gateway (four bytes of length, little endian,
//! before each packet, as DogStatsD does it). Datagrams that cannot be sent on are lost, as with UDP.

use super::{Losses, Lost, PAUSE};
use crate::commands::scrape::owner;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    net::{UdpSocket, UnixStream},
    time::timeout,
};

/// Longest datagram, as the gateway takes it.
const PACKET: usize = 8 << 10;
/// A datagram that the gateway does not take within this time is lost. Meanwhile the kernel queues some.
const PATIENCE: Duration = Duration::from_secs(1);
/// For how long it counts that a sender is of the run, or is not.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Senders that are remembered, of each kind.
const SENDERS: usize = 1_024;

/// Carries datagrams for ever.
pub(super) async fn receive(socket: UdpSocket, gateway: PathBuf) {
    let (mut senders, losses, mut to) = (Senders::default(), Losses::default(), None);
    let mut buffer = vec![0; PACKET + 1];
    loop {
        let Ok((read, sender)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if read > PACKET {
            losses.report(Lost::Large, &format!("a datagram of more than {PACKET} bytes is lost"));
            continue;
        }
        match senders.is_own(sender).await {
            Ok(true) => {}
            Ok(false) => {
                let text = format!(
                    "a datagram from {sender} is refused: its socket is not open, or not of a process of this run"
                );
                losses.report(Lost::Stranger, &text);
                continue;
            }
            Err(why) => {
                losses.report(Lost::Tables, &format!("a datagram from {sender} is refused: {why}"));
                continue;
            }
        }
        if let Err(why) = send(&mut to, &gateway, &buffer[..read]).await {
            losses.report(Lost::Gateway, &format!("a datagram is lost: {}: {why}", gateway.display()));
        }
    }
}

/// Sends a frame. A connection that the gateway has closed is made anew, once.
async fn send(to: &mut Option<UnixStream>, gateway: &Path, datagram: &[u8]) -> Result<(), String> {
    let length = u32::try_from(datagram.len()).unwrap_or_default().to_le_bytes();
    let frame = [&length, datagram].concat();
    for is_last in [to.is_none(), true] {
        let mut stream = match to.take() {
            Some(open) => open,
            None => UnixStream::connect(gateway).await.map_err(|error| error.to_string())?,
        };
        match timeout(PATIENCE, stream.write_all(&frame)).await {
            Ok(Ok(())) => {
                *to = Some(stream);
                return Ok(());
            }
            Ok(Err(error)) if is_last => return Err(error.to_string()),
            Ok(Err(_)) => {}
            // A part of it may be sent: what follows would be read wrongly.
            Err(_) => return Err(format!("it takes nothing for {} s", PATIENCE.as_secs())),
        }
    }
    Ok(())
}

/// Who was looked up, and when. Strangers take no place of a sender of the run.
#[derive(Debug, Default)]
struct Senders {
    own: BTreeMap<SocketAddr, Instant>,
    strangers: BTreeMap<SocketAddr, Instant>,
}

impl Senders {
    async fn is_own(&mut self, sender: SocketAddr) -> Result<bool, String> {
        let now = Instant::now();
        if let Some(own) = self.known(sender, now) {
            return Ok(own);
        }
        let looked = tokio::task::spawn_blocking(move || owner::sends(sender)).await;
        let own = looked.unwrap_or_else(|error| Err(error.to_string()))?;
        self.remember(sender, own, now);
        Ok(own)
    }

    fn known(&self, sender: SocketAddr, now: Instant) -> Option<bool> {
        let is_in = |all: &BTreeMap<_, _>| all.get(&sender).is_some_and(|at| is_recent(*at, now));
        if is_in(&self.own) {
            return Some(true);
        }
        is_in(&self.strangers).then_some(false)
    }

    fn remember(&mut self, sender: SocketAddr, own: bool, now: Instant) {
        let (all, others) =
            if own { (&mut self.own, &mut self.strangers) } else { (&mut self.strangers, &mut self.own) };
        others.remove(&sender);
        if all.len() >= SENDERS {
            all.retain(|_, at| is_recent(*at, now));
        }
        if all.len() < SENDERS {
            all.insert(sender, now);
        }
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.duration_since(at) < KNOWN_FOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_datagram_is_a_frame_and_a_new_gateway_gets_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("statsd.sock");
        let gateway = tokio::net::UnixListener::bind(&path).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let here = socket.local_addr().unwrap();
        tokio::spawn(receive(socket, path.clone()));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"loss:1|g", here).await.unwrap();
        let (mut first, _) = gateway.accept().await.unwrap();
        let mut got = [0; 12];
        first.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"\x08\0\0\0loss:1|g");
        drop(first);
        client.send_to(b"loss:22|g", here).await.unwrap();
        let (mut second, _) = gateway.accept().await.unwrap();
        let mut got = [0; 13];
        second.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"\x09\0\0\0loss:22|g");
    }

    #[test]
    fn strangers_take_no_place_of_a_sender_of_the_run() {
        let (mut senders, now) = (Senders::default(), Instant::now());
        let at = |port: usize| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        for port in 1..=2 * SENDERS {
            senders.remember(at(port), false, now);
        }
        senders.remember(at(9_000), true, now);
        senders.remember(at(1), true, now);
        assert_eq!((senders.known(at(9_000), now), senders.known(at(1), now)), (Some(true), Some(true)));
        assert_eq!((senders.known(at(2), now), senders.known(at(2 * SENDERS), now)), (Some(false), None));
        assert_eq!(senders.known(at(2), now + KNOWN_FOR), None);
    }

    #[tokio::test]
    async fn a_sender_that_has_closed_its_socket_is_not_of_the_run() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(Senders::default().is_own(address).await, Ok(true));
        drop(socket);
        assert_eq!(Senders::default().is_own(address).await, Ok(false));
    }
}
