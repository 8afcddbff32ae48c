//! A small key-value server and its client, one request at a time over loopback, in the manner of redis: text lines
//! `SET KEY VALUE` and `GET KEY`, each answered by one line. The server is a process of its own.
//!
//! ```text
//!  client ── SET k7 7 ──► server     client ── GET k7 ──► server
//!         ◄── OK ────────                   ◄── 7 ───────
//! ```

use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

/// Keys in use: the server's memory stays small.
const KEYS: u64 = 1_000;

/// A connection to a process started for it, which ends with it.
pub struct Peer {
    /// The connection.
    pub stream: TcpStream,
    child: Child,
}

impl Peer {
    /// Starts this program with the argument `role` and connects to the port that it prints.
    ///
    /// # Errors
    /// It does not start, or does not listen.
    pub fn start(role: &str) -> Result<Peer> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program).arg(role).stdout(Stdio::piped()).spawn().context("starting the peer")?;
        match connect(&mut child) {
            Ok(stream) => Ok(Peer { stream, child }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

fn connect(child: &mut Child) -> Result<TcpStream> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line).context("reading the peer's port")?;
    let port: u16 = line.trim().parse().with_context(|| format!("the peer printed no port but {line:?}"))?;
    let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting to the peer")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    Ok(stream)
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// Listens, and prints the port.
///
/// # Errors
/// The kernel refuses a socket.
pub fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
    crate::say(listener.local_addr().context("finding the port")?.port());
    Ok(listener)
}

/// Serves one client until it closes.
///
/// # Errors
/// The connection failed.
pub fn serve(listener: TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept().context("accepting")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    let mut reader = BufReader::new(stream.try_clone().context("a second handle")?);
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut line = String::new();
    while reader.read_line(&mut line).context("reading a request")? > 0 {
        let mut words = line.split_whitespace();
        let answer = match (words.next(), words.next(), words.next()) {
            (Some("SET"), Some(key), Some(value)) => {
                values.insert(key.to_owned(), value.to_owned());
                "OK\n".to_owned()
            }
            (Some("GET"), Some(key), None) => format!("{}\n", values.get(key).map_or("NONE", String::as_str)),
            _ => "ERROR\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).context("answering")?;
        line.clear();
    }
    Ok(())
}

/// Reads and drops what one client sends until it closes.
///
/// # Errors
/// The connection failed.
pub fn swallow(listener: TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept().context("accepting")?;
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).context("reading")? > 0 {}
    Ok(())
}

/// Request number `n`: odd ones set a key, even ones ask for the key that the one before set.
///
/// # Errors
/// The connection failed, or the answer is wrong.
pub fn ask(stream: &mut TcpStream, n: u64) -> Result<()> {
    let number = n.div_ceil(2) % KEYS;
    let (request, expected) = match n % 2 {
        1 => (format!("SET k{number} {number}\n"), "OK\n".to_owned()),
        _ => (format!("GET k{number}\n"), format!("{number}\n")),
    };
    stream.write_all(request.as_bytes()).context("asking")?;
    let mut answer = [0; 32];
    let mut got = 0;
    while !answer[..got].ends_with(b"\n") {
        match stream.read(&mut answer[got..]).context("reading the answer")? {
            0 => bail!("the server closed"),
            more => got += more,
        }
    }
    if &answer[..got] != expected.as_bytes() {
        bail!("asked {request:?}, answered {:?}", String::from_utf8_lossy(&answer[..got]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_remembers_and_the_client_checks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || serve(listener));
        let mut stream = TcpStream::connect(to).unwrap();
        for n in 1..=2_010 {
            ask(&mut stream, n).unwrap();
        }
        // Another key than the one just set: the client notices.
        stream.write_all(b"SET k7 wrong\n").unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 3);
        assert!(ask(&mut stream, 14).is_err());
        drop(stream);
        server.join().unwrap().unwrap();
    }
}
