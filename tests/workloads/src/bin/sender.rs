//! Sends bytes in a loop over UDP or TCP, and says how many left and what was refused.

use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use workloads::{errno_name, say};

#[derive(Parser)]
#[command(about = "Sends bytes in a loop")]
struct Args {
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    /// How: `udp` with sendto, `connected-udp` with connect and send, or `tcp`
    #[arg(long, default_value = "udp")]
    how: How,
    /// Messages
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Bytes a message
    #[arg(long, default_value_t = 1000)]
    bytes: usize,
    /// Pause after each message, milliseconds
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

/// Sends one message.
type Sender = Box<dyn FnMut(&[u8]) -> io::Result<usize>>;

#[derive(Clone, Copy, ValueEnum)]
enum How {
    Udp,
    ConnectedUdp,
    Tcp,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let message = vec![b'x'; args.bytes];
    let mut send = sender(args.how, args.to);
    let (mut sent, mut refused) = (0u64, BTreeMap::<String, u64>::new());
    for _ in 0..args.count {
        match send(&message) {
            Ok(n) => sent += n as u64,
            Err(error) => *refused.entry(errno_name(&error)).or_default() += 1,
        }
        std::thread::sleep(Duration::from_millis(args.pause_ms));
    }
    let refused: Vec<String> = refused.iter().map(|(errno, n)| format!("{errno} {n} times")).collect();
    say(format_args!(
        "sent {sent} bytes to {}; refused: {}",
        args.to,
        if refused.is_empty() { "none".into() } else { refused.join(", ") }
    ));
    Ok(())
}

/// A socket that cannot be had is tried again at the next one.
fn sender(how: How, to: SocketAddr) -> Sender {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    match how {
        How::Udp => {
            let socket = UdpSocket::bind(any);
            Box::new(move |message| match &socket {
                Ok(socket) => socket.send_to(message, to),
                Err(error) => Err(error.kind().into()),
            })
        }
        How::ConnectedUdp => Box::new(move |message| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.send(message)
        }),
        How::Tcp => {
            let mut stream: Option<TcpStream> = None;
            Box::new(move |message| {
                let open = match stream.take() {
                    Some(open) => open,
                    None => TcpStream::connect_timeout(&to, Duration::from_secs(2))?,
                };
                stream.insert(open).write_all(message).map(|()| message.len())
            })
        }
    }
}
