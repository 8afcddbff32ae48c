//! A name server for tests: it answers every question with one address, by way of an alias.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(at: &str, answer: Ipv4Addr) -> Self {
        Self::answering(at, move |question| reply(question, answer))
    }

    /// Answers each question by what `answer` makes of it.
    pub fn answering(at: &str, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !until.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut question) {
                    socket.send_to(&answer(&question[..n]), from).unwrap();
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
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

/// RFC 1035, section 4: header, the question again, a CNAME for it, an A record for that.
pub fn reply(question: &[u8], answer: Ipv4Addr) -> Vec<u8> {
    let mut out = question.to_vec();
    out[2] |= 0x80;
    out[7] = 2;
    let alias_at = out.len() + 12;
    out.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, b'x', 0xc0, 12]);
    let [high, low] = u16::try_from(alias_at).unwrap().to_be_bytes();
    out.extend([0xc0 | high, low, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    out.extend(answer.octets());
    out
}

/// Answers over TCP: a question for a name that begins with `split` in two pieces, so that no packet holds it whole; others in one.
pub fn serve_tcp(at: &str, answer: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).unwrap();
            let reply = reply(&question, answer);
            let whole = [&u16::try_from(reply.len()).unwrap().to_be_bytes()[..], &reply].concat();
            let at = if question[13..].starts_with(b"split") { 20 } else { whole.len() };
            for piece in [&whole[..at], &whole[at..]] {
                stream.write_all(piece).unwrap();
            }
        }
    });
    address
}

/// As [`ask`], over TCP.
pub fn ask_tcp(name: &str, server: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let query = query(name);
    stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes(length))])
}

/// Asks `server` for the A records of `name`, and waits for the answer.
pub fn ask(name: &str, server: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send_to(&query(name), server)?;
    socket.recv_from(&mut [0; 512]).map(|_| ())
}

fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}
