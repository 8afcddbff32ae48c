//! Reporting a metric to failsafed: one unix datagram, one line `NAME VALUE [STEP]`. Who sends it is known to the
//! daemon from the kernel, so there is nothing to log in to.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Where metrics go.
#[derive(Debug)]
pub struct Reporter {
    socket: UnixDatagram,
    to: PathBuf,
}

impl Reporter {
    /// A reporter to the daemon's metrics socket at `to`. Nothing is sent yet, so the daemon may start later.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn new(to: PathBuf) -> io::Result<Reporter> {
        let socket = UnixDatagram::unbound()?;
        // Training must not wait for a slow daemon: a full queue loses the sample.
        socket.set_nonblocking(true)?;
        Ok(Reporter { socket, to })
    }

    /// Sends one sample.
    ///
    /// # Errors
    /// Nobody listens (`ENOENT`, `ECONNREFUSED`), the queue is full (`EAGAIN`), or the kernel refuses.
    pub fn send(&self, name: &str, value: f64, step: u64) -> io::Result<()> {
        self.socket.send_to(format!("{name} {value} {step}\n").as_bytes(), &self.to).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_line_of_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let server = UnixDatagram::bind(&path).unwrap();
        let reporter = Reporter::new(path).unwrap();
        let mut buffer = [0; 64];
        for (value, expected) in [(2.5, "loss 2.5 7\n"), (f64::NAN, "loss NaN 7\n"), (f64::INFINITY, "loss inf 7\n")] {
            reporter.send("loss", value, 7).unwrap();
            let n = server.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..n]).unwrap(), expected);
        }
    }
}
