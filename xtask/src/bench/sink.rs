//! A place that counts what arrives: datagrams and TCP connections, on one address and port.

use crate::interrupt;
use anyhow::{Context, Result, bail};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How long a wait for arrivals lasts before the end is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// The place; its threads end when it is dropped.
pub struct Sink {
    address: SocketAddr,
    arrived: Arc<AtomicU64>,
    /// Arrivals of its own check.
    own: AtomicU64,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    /// A sink at a free port of `ip`.
    ///
    /// # Errors
    /// No port is free for both protocols.
    pub fn at(ip: IpAddr) -> Result<Sink> {
        let (udp, tcp) = sockets(ip).context("finding a port for a sink")?;
        let address = udp.local_addr()?;
        udp.set_read_timeout(Some(LOOK))?;
        tcp.set_nonblocking(true)?;
        let (arrived, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let datagrams = watch(&arrived, &stop, move || udp.recv(&mut [0; 64]).is_ok());
        let connections = watch(&arrived, &stop, move || {
            let came = tcp.accept().is_ok();
            if !came {
                std::thread::sleep(Duration::from_millis(1));
            }
            came
        });
        Ok(Sink { address, arrived, own: AtomicU64::new(0), stop, threads: vec![datagrams, connections] })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams and connections so far, but for those of [`Sink::check`].
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed) - self.own.load(Ordering::Relaxed)
    }

    /// Sends one datagram and makes one connection, and waits until both are counted.
    ///
    /// # Errors
    /// They are not.
    pub fn check(&self) -> Result<()> {
        let before = self.arrived.load(Ordering::Relaxed);
        UdpSocket::bind((self.address.ip(), 0))?.send_to(b"check", self.address).context("sending to the sink")?;
        drop(TcpStream::connect(self.address).context("connecting to the sink")?);
        interrupt::wait_for("the sink's own two arrivals", Duration::from_secs(5), || {
            Ok((self.arrived.load(Ordering::Relaxed) == before + 2).then_some(()))
        })?;
        self.own.fetch_add(2, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Both protocols on one port: the kernel chooses the first, the second may be taken.
fn sockets(ip: IpAddr) -> Result<(UdpSocket, TcpListener)> {
    for _ in 0..20 {
        let udp = UdpSocket::bind((ip, 0))?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no port of {ip} is free for UDP and TCP")
}

fn watch(
    arrived: &Arc<AtomicU64>,
    stop: &Arc<AtomicBool>,
    mut one: impl FnMut() -> bool + Send + 'static,
) -> JoinHandle<()> {
    let (arrived, stop) = (arrived.clone(), stop.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            arrived.fetch_add(u64::from(one()), Ordering::Relaxed);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_counted_and_its_own_are_not() {
        let sink = Sink::at(IpAddr::from([127, 0, 0, 1])).unwrap();
        sink.check().unwrap();
        assert_eq!(sink.arrived(), 0);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", sink.address()).unwrap();
        interrupt::wait_for("the datagram", Duration::from_secs(5), || Ok((sink.arrived() == 1).then_some(())))
            .unwrap();
    }
}
