//! One GET by HTTP/1.0, bounded in time and bytes. No redirect is followed, and nothing compressed is asked for.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// The whole of it takes this long at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer, head and body, in bytes.
const ANSWER: usize = 1 << 20;

/// Why nothing was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// The kernel refuses the connection.
    Denied,
    /// Something else.
    Other(String),
}

impl From<String> for Missed {
    fn from(why: String) -> Missed {
        Missed::Other(why)
    }
}

/// The body of the answer.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>, Missed> {
    let until = Instant::now() + PATIENCE;
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Missed::Denied,
        _ => Missed::Other(error.to_string()),
    })?;
    Ok(exchange(stream, address, path, until)?)
}

fn exchange(mut stream: TcpStream, address: SocketAddr, path: &str, until: Instant) -> Result<Vec<u8>, String> {
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: text/plain; version=0.0.4\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no whole answer within {} s", PATIENCE.as_secs()));
        }
        stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        let read = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.to_string()),
        };
        answer.extend_from_slice(&buffer[..read]);
        if answer.len() > ANSWER {
            return Err(format!("the answer is larger than {ANSWER} bytes"));
        }
    }
    body(answer)
}

fn body(answer: Vec<u8>) -> Result<Vec<u8>, String> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or("the answer is not HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.lines().next().unwrap_or_default();
    let mut words = status.split(' ');
    if !words.next().is_some_and(|version| version.starts_with("http/1.")) || words.next() != Some("200") {
        return Err(format!("expected status 200, not `{}`", crate::text::clean(status)));
    }
    for header in ["transfer-encoding:", "content-encoding:"] {
        if head.lines().any(|line| line.starts_with(header) && !line.ends_with("identity")) {
            return Err(format!("the answer has {header} expected plain text"));
        }
    }
    let body = answer[end + 4..].to_vec();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).map(str::trim);
    if let Some(length) = length.filter(|length| length.parse() != Ok(body.len())) {
        return Err(format!("the answer ends early: {} bytes, of `{}`", body.len(), crate::text::clean(length)));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answered(answer: Vec<u8>) -> Result<Vec<u8>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            // The client may close before it has read all.
            let _sent = stream.write_all(&answer);
            request
        });
        let got = get(address, "/m");
        assert!(server.join().unwrap().starts_with(b"GET /m HTTP/1.0\r\n"));
        got.map_err(|missed| match missed {
            Missed::Other(why) => why,
            Missed::Denied => "denied".to_owned(),
        })
    }

    #[test]
    fn the_body_of_a_plain_answer_is_read() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nloss 1\n".to_vec()), Ok(b"loss 1\n".to_vec()));
    }

    #[test]
    fn another_status_a_coding_and_an_answer_without_end_are_refused() {
        for (answer, why) in [
            (b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(), "expected status 200"),
            (b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n".to_vec(), "expected status 200"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".to_vec(), "transfer-encoding"),
            (b"SSH-2.0-x\r\n".to_vec(), "not HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nloss 12".to_vec(), "ends early"),
            (vec![b'a'; ANSWER + 1], "larger than"),
        ] {
            let error = answered(answer).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
