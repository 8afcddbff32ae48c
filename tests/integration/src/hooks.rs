//! A webhook of a test's own: an HTTP server that keeps what it gets.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

/// The server. Its thread ends with the test's process.
#[derive(Debug)]
pub struct Hooks {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    got: Arc<Mutex<Vec<Value>>>,
}

impl Hooks {
    /// A server that answers with this status.
    ///
    /// # Errors
    /// No port can be bound.
    pub fn start(status: u16) -> Result<Hooks> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (status, got) = (Arc::new(AtomicU16::new(status)), Arc::new(Mutex::new(Vec::new())));
        let hooks = Hooks { address, status: status.clone(), got: got.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (status, got) = (status.clone(), got.clone());
                thread::spawn(move || answer(stream, &status, &got));
            }
        });
        Ok(hooks)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// From now on it answers with this status.
    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// The events that it took: those that it answered with 200.
    pub fn taken(&self) -> Vec<Value> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(stream: TcpStream, status: &AtomicU16, got: &Mutex<Vec<Value>>) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the client is gone");
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let status = status.load(Ordering::SeqCst);
    if status == 200 {
        let event = serde_json::from_slice(&body).context("a body in JSON")?;
        got.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} x\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(())
}
