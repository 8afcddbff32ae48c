//! A name server for the jobs: every name below one zone has the same addresses; there are no others.

use anyhow::{Context, Result};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A running server; dropped, it ends.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves at port 53 of `at`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(at: Ipv4Addr, zone: &str, addresses: Vec<IpAddr>) -> Result<Server> {
        let socket = UdpSocket::bind(SocketAddr::from((at, 53))).context("binding the name server's address")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (until, zone) = (stop.clone(), zone.to_ascii_lowercase());
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !until.load(Ordering::Relaxed) {
                let Ok((n, from)) = socket.recv_from(&mut question) else { continue };
                if let Some(reply) = reply(&question[..n], &zone, &addresses) {
                    // Whoever asked may have gone.
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Ok(Server { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// RFC 1035, section 4: header, the question again, one record for each address of the type that is asked for. Outside the zone: there
/// is no such name.
fn reply(query: &[u8], zone: &str, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let (mut name, mut at) = (String::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        let label = query.get(at + 1..at + 1 + length)?;
        name = format!("{name}.{}", String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes(*query.get(at + 1..)?.first_chunk()?);
    // What follows the question (EDNS) is left out: a server need not know it.
    let mut out = query.get(..at + 5)?.to_vec();
    let known = name.ends_with(&format!(".{zone}"));
    let bytes = |address: &IpAddr| match (address, kind) {
        (IpAddr::V4(a), 1) => Some(a.octets().to_vec()),
        (IpAddr::V6(a), 28) => Some(a.octets().to_vec()),
        _ => None,
    };
    let found: Vec<Vec<u8>> = if known { addresses.iter().filter_map(bytes).collect() } else { Vec::new() };
    out[2..4].copy_from_slice(&[0x85, if known { 0x80 } else { 0x83 }]);
    out[6..12].copy_from_slice(&[0, u8::try_from(found.len()).ok()?, 0, 0, 0, 0]);
    for address in found {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60, 0, u8::try_from(address.len()).ok()?]);
        out.extend(address);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_zone_has_its_addresses_and_others_do_not_exist() {
        let ask =
            |label: &[u8]| [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], label, b"\x04test\x00\x00\x01\x00\x01"].concat();
        let addresses = ["127.0.54.1".parse().unwrap(), "::1".parse().unwrap()];
        let query = ask(b"\x01A");
        let found = reply(&query, "test", &addresses).unwrap();
        assert_eq!(&found[..12], [1, 2, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(&found[query.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 54, 1]);
        assert_eq!(reply(&query, "other", &addresses).unwrap()[3] & 0x0f, 3);
        assert_eq!(reply(&query[..20], "test", &addresses), None);
    }
}
