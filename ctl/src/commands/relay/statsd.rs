//! statsd: each datagram of a process of the run becomes a frame on one connection to the gateway (four bytes of length, little endian,
//! before each packet, as DogStatsD does it). Datagrams that cannot be sent on are lost, as with UDP.

use super::{Losses, Lost, PAUSE};
use crate::commands::scrape::owner;
use std::{
    collections::{BTreeMap, BTreeSet},
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
/// For how long it counts that a socket is of the run, or is not. A socket has its own number: another one at the same address, bound
/// after it was closed, is looked up anew.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Sockets that are remembered, of each kind.
const SENDERS: usize = 1_024;
/// Datagrams whose senders are looked up at once: the kernel lists all sockets each time.
const BATCH: usize = 64;

/// Carries datagrams for ever.
pub(super) async fn receive(socket: UdpSocket, gateway: PathBuf) {
    let (mut senders, losses, mut to) = (Senders::default(), Losses::default(), None);
    let mut buffer = vec![0; PACKET + 1];
    loop {
        let datagrams = match batch(&socket, &mut buffer, &losses).await {
            Ok(datagrams) if datagrams.is_empty() => continue,
            Ok(datagrams) => datagrams,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // After they were received: whoever binds an address later has sent none of them.
        let own = senders.own(datagrams.iter().map(|(sender, _)| *sender).collect()).await;
        for (sender, datagram) in datagrams {
            match own.get(&sender) {
                Some(Ok(true)) => {}
                Some(Err(why)) => {
                    losses.report(Lost::Tables, &format!("a datagram from {sender} is refused: {why}"));
                    continue;
                }
                Some(Ok(false)) | None => {
                    let text = format!(
                        "a datagram from {sender} is refused: its socket is not open, or not of a process of this run"
                    );
                    losses.report(Lost::Stranger, &text);
                    continue;
                }
            }
            if let Err(why) = send(&mut to, &gateway, &datagram).await {
                losses.report(Lost::Gateway, &format!("a datagram is lost: {}: {why}", gateway.display()));
            }
        }
    }
}

/// Waits for a datagram, and takes those that are there with it.
async fn batch(socket: &UdpSocket, buffer: &mut [u8], losses: &Losses) -> std::io::Result<Vec<(SocketAddr, Vec<u8>)>> {
    let mut datagrams = Vec::new();
    let mut next = Ok(socket.recv_from(buffer).await?);
    for left in (0..BATCH).rev() {
        let Ok((read, sender)) = next else { break };
        if read > PACKET {
            losses.report(Lost::Large, &format!("a datagram of more than {PACKET} bytes is lost"));
        } else {
            datagrams.push((sender, buffer[..read].to_vec()));
        }
        if left == 0 {
            break;
        }
        next = socket.try_recv_from(buffer);
    }
    Ok(datagrams)
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

/// The numbers of sockets, ascending.
type Sockets = Vec<u64>;

/// Which sockets were looked up, and when. Those of strangers take no place of those of the run.
#[derive(Debug, Default)]
struct Senders {
    own: BTreeMap<Sockets, Instant>,
    strangers: BTreeMap<Sockets, Instant>,
}

impl Senders {
    /// Of each address, whether processes of the run hold every socket that is there now.
    async fn own(&mut self, addresses: BTreeSet<SocketAddr>) -> BTreeMap<SocketAddr, Result<bool, String>> {
        let all = addresses.clone();
        let listed = tokio::task::spawn_blocking(move || owner::at(&all)).await;
        let mut listed = match listed.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(listed) => listed,
            Err(why) => return addresses.into_iter().map(|address| (address, Err(why.clone()))).collect(),
        };
        let mut own = BTreeMap::new();
        for address in addresses {
            own.insert(address, self.is_own(listed.remove(&address).unwrap_or_default()).await);
        }
        own
    }

    async fn is_own(&mut self, sockets: Vec<(u64, u32)>) -> Result<bool, String> {
        let now = Instant::now();
        let mut numbers: Sockets = sockets.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        if let Some(own) = self.known(&numbers, now) {
            return Ok(own);
        }
        let looked = tokio::task::spawn_blocking(move || owner::all_own(sockets)).await;
        let own = looked.unwrap_or_else(|error| Err(error.to_string()))?;
        self.remember(numbers, own, now);
        Ok(own)
    }

    fn known(&self, sockets: &Sockets, now: Instant) -> Option<bool> {
        let is_in = |all: &BTreeMap<_, _>| all.get(sockets).is_some_and(|at| is_recent(*at, now));
        if is_in(&self.own) {
            return Some(true);
        }
        is_in(&self.strangers).then_some(false)
    }

    fn remember(&mut self, sockets: Sockets, own: bool, now: Instant) {
        let (all, others) =
            if own { (&mut self.own, &mut self.strangers) } else { (&mut self.strangers, &mut self.own) };
        others.remove(&sockets);
        if all.len() >= SENDERS {
            all.retain(|_, at| is_recent(*at, now));
        }
        if all.len() < SENDERS {
            all.insert(sockets, now);
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
        let at = |number: usize| vec![number as u64];
        for number in 1..=2 * SENDERS {
            senders.remember(at(number), false, now);
        }
        senders.remember(at(9_000), true, now);
        senders.remember(at(1), true, now);
        assert_eq!((senders.known(&at(9_000), now), senders.known(&at(1), now)), (Some(true), Some(true)));
        assert_eq!((senders.known(&at(2), now), senders.known(&at(2 * SENDERS), now)), (Some(false), None));
        assert_eq!(senders.known(&at(2), now + KNOWN_FOR), None);
    }

    #[tokio::test]
    async fn a_sender_that_has_closed_its_socket_is_not_of_the_run_any_more() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut senders = Senders::default();
        assert_eq!(senders.own([address].into()).await[&address], Ok(true));
        assert_eq!(senders.own.len(), 1, "its socket is remembered");
        drop(socket);
        // At once, and whoever binds the address then.
        assert_eq!(senders.own([address].into()).await[&address], Ok(false));
    }

    #[tokio::test]
    async fn datagrams_that_are_there_are_taken_together() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let here = socket.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for n in 0..3_u8 {
            client.send_to(&[n], here).await.unwrap();
        }
        client.send_to(&[9; PACKET + 1], here).await.unwrap();
        client.send_to(&[3], here).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 4 {
            let taken = batch(&socket, &mut vec![0; PACKET + 1], &Losses::default()).await.unwrap();
            got.extend(taken.into_iter().map(|(sender, bytes)| (sender.port(), bytes)));
        }
        let port = client.local_addr().unwrap().port();
        assert_eq!(got, (0..4).map(|n| (port, vec![n])).collect::<Vec<_>>());
    }
}
