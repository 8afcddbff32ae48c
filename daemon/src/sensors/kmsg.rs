//! The kernel's log, as it is written: XIDs and other words of the hardware, also when NVML hangs.
//!
//! Owns the descriptor and its thread. Invariants: it starts behind the last record that an earlier daemon of this boot took
//! in, or at the log's beginning; what is there when it starts is told as of the past, with the time of its own lines; lines
//! longer than [`LINE`] are cut; records that the kernel overwrote unread are told as lost. The path is the configuration's:
//! tests feed a fifo or a file.

use crate::platform::clock;
use failsafe_core::{
    MonoTime,
    klog::{Lines, LogFact, record},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

/// The longest line that is looked at; the kernel's own are at most 1 KiB and a dictionary.
const LINE: usize = 8_192;
/// A regular file is looked at this often, milliseconds.
const LOOK_EVERY_MS: u16 = 100;

/// What the kernel's log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KmsgEvent {
    /// Something about the hardware.
    LogFact {
        /// What.
        fact: LogFact,
        /// When it was read; when it was written, where that was before this sensor.
        at: MonoTime,
        /// The record's number.
        sequence: u64,
        /// It was there when this sensor started.
        past: bool,
    },
    /// Records were overwritten before they were read.
    Lost {
        /// How many, where the numbers say it.
        records: u64,
    },
    /// A line was longer than is looked at, and was cut.
    Cut,
    /// It cannot be read any more.
    Blind {
        /// Why.
        why: String,
    },
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the kernel's log {path}")]
pub struct KmsgError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The running sensor; dropping it stops it.
#[derive(Debug)]
pub struct Kmsg {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Kmsg {
    /// Opens the log and reads it on a thread of its own. `after` is the last record that was taken in before, in this boot.
    ///
    /// # Errors
    /// [`KmsgError`].
    pub fn spawn(
        path: &Path,
        lines: Lines,
        after: Option<u64>,
        sink: impl FnMut(KmsgEvent) + Send + 'static,
    ) -> Result<Kmsg, KmsgError> {
        let failed = |source| KmsgError { path: path.to_owned(), source };
        let file = open(path).map_err(failed)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.map_err(|errno| failed(errno.into()))?);
        let stopped = stop.clone();
        let mut reader = Reader::new(lines, sink, after);
        let work = move || reader.work(file, &stopped);
        let thread = std::thread::Builder::new().name("kmsg".into()).spawn(work).map_err(failed)?;
        Ok(Kmsg { stop, thread: Some(thread) })
    }
}

impl Drop for Kmsg {
    fn drop(&mut self) {
        let _full = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the kernel's log panicked");
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    let mut options = OpenOptions::new();
    // A fifo that is open for writing too never ends.
    options.read(true).write(kind.is_fifo()).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC);
    let mut file = options.open(path)?;
    if !kind.is_fifo() {
        // Of /dev/kmsg that is the oldest record that the kernel still has.
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(file)
}

struct Reader<S> {
    lines: Lines,
    sink: S,
    rest: Vec<u8>,
    /// The line under way was cut: what comes until its end is passed over.
    cut: bool,
    sequence: Option<u64>,
    /// Records up to here were taken in before.
    after: Option<u64>,
    /// What was there at the start is still being read.
    past: bool,
}

impl<S: FnMut(KmsgEvent)> Reader<S> {
    fn new(lines: Lines, sink: S, after: Option<u64>) -> Reader<S> {
        Reader { lines, sink, rest: Vec::new(), cut: false, sequence: None, after, past: true }
    }

    fn work(&mut self, mut file: File, stop: &EventFd) {
        let plain = file.metadata().is_ok_and(|m| m.is_file());
        let mut buffer = vec![0; LINE];
        loop {
            match file.read(&mut buffer) {
                // Only a plain file ends, and may grow.
                Ok(0) => {
                    self.past = false;
                    if waits(stop, None, LOOK_EVERY_MS.into()) {
                        return;
                    }
                }
                Ok(n) => self.bytes(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.past = false;
                    let fd = (!plain).then_some(&file);
                    if waits(stop, fd, PollTimeout::NONE) {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The kernel overwrote what was next; how much is seen by the numbers.
                Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
                Err(error) => {
                    (self.sink)(KmsgEvent::Blind { why: error.to_string() });
                    return;
                }
            }
        }
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, after) = bytes.split_at(end);
            bytes = &after[1..];
            if !self.cut {
                self.keep(line);
            }
            // Its end is here: the next is another, whether this one was cut just now or before.
            self.cut = false;
            let whole = std::mem::take(&mut self.rest);
            self.line(&String::from_utf8_lossy(&whole));
        }
        if !self.cut {
            self.keep(bytes);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE - self.rest.len();
        self.cut = bytes.len() > room;
        self.rest.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.cut {
            (self.sink)(KmsgEvent::Cut);
        }
    }

    fn line(&mut self, line: &str) {
        let sequence = line.split(',').nth(1).filter(|_| !line.starts_with(' ')).and_then(|n| n.parse::<u64>().ok());
        if let Some(now) = sequence {
            if self.after.is_some_and(|after| now <= after) {
                return;
            }
            // What was overwritten while nobody read is lost as well.
            self.sequence = self.sequence.or(self.after);
            let lost = self.sequence.map_or(0, |last| now.saturating_sub(last.saturating_add(1)));
            self.sequence = Some(now);
            if lost > 0 {
                (self.sink)(KmsgEvent::Lost { records: lost });
            }
        }
        let Some(record) = record(line) else { return };
        // The record's own clock drifts from CLOCK_MONOTONIC, so the instant is that of reading, but for what was written
        // long before.
        let now = clock::monotonic_ns();
        let at = MonoTime(if self.past { now.min(record.micros.saturating_mul(1_000)) } else { now });
        if let Some(fact) = self.lines.hear(&record.message, at) {
            (self.sink)(KmsgEvent::LogFact { fact, at, sequence: record.sequence, past: self.past });
        }
    }
}

/// Waits for the descriptor, or as long as is said; true when the sensor is to stop.
fn waits(stop: &EventFd, file: Option<&File>, timeout: PollTimeout) -> bool {
    let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    fds.extend(file.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => fds[0].any().unwrap_or(false),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{io::Write, sync::mpsc, time::Duration};

    fn reader() -> (Reader<impl FnMut(KmsgEvent)>, mpsc::Receiver<KmsgEvent>) {
        let (tx, rx) = mpsc::channel();
        let sink = move |event| tx.send(event).unwrap();
        (Reader::new(Lines::built_in().unwrap(), sink, None), rx)
    }

    #[test]
    fn a_fifo_in_place_of_the_kernels_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsg");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        let (tx, rx) = mpsc::channel();
        let kmsg = Kmsg::spawn(&path, Lines::built_in().unwrap(), None, move |event| tx.send(event).unwrap()).unwrap();
        let mut fifo = OpenOptions::new().write(true).open(&path).unwrap();
        fifo.write_all(b"4,7,1,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1\n SUBSYSTEM=pci\n6,8,2,-;usb 1-1: new\n")
            .unwrap();
        let event = rx.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(event, KmsgEvent::LogFact { fact: LogFact::Xid { code: 79, .. }, .. }), "{event:?}");
        drop(fifo);
        let mut again = OpenOptions::new().write(true).open(&path).unwrap();
        again.write_all(b"4,11,3,-;NVRM: Xid (PCI:0000:3b:00): 95, x\n").unwrap();
        assert_eq!(rx.recv_timeout(Duration::from_secs(10)).unwrap(), KmsgEvent::Lost { records: 2 });
        let event = rx.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(event, KmsgEvent::LogFact { fact: LogFact::Xid { code: 95, .. }, .. }), "{event:?}");
        drop(kmsg);
        assert!(rx.recv_timeout(Duration::from_secs(1)).is_err(), "stopped");
    }

    #[test]
    fn what_was_written_before_the_start_is_read_behind_what_was_taken_in_with_its_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsg");
        let xid = |n: u64, code: u64| format!("4,{n},{},-;NVRM: Xid (PCI:0000:3b:00): {code}, x\n", n * 1_000);
        // Records 12 and 13 were overwritten while nobody read.
        std::fs::write(&path, xid(10, 48) + &xid(11, 63) + &xid(14, 79)).unwrap();
        let read = |after| {
            let (tx, rx) = mpsc::channel();
            let kmsg = Kmsg::spawn(&path, Lines::built_in().unwrap(), after, move |event| tx.send(event).unwrap());
            (kmsg.unwrap(), move || match rx.recv_timeout(Duration::from_secs(10)).unwrap() {
                KmsgEvent::LogFact { fact: LogFact::Xid { code, .. }, at, sequence, past } => {
                    (code, at.0, sequence, past)
                }
                KmsgEvent::Lost { records } => (0, records, 0, false),
                other => panic!("{other:?}"),
            })
        };
        let (kmsg, next) = read(Some(10));
        assert_eq!(next(), (63, 11_000_000, 11, true), "behind the tenth, with its own time");
        assert_eq!(next(), (0, 2, 0, false), "two are lost");
        assert_eq!(next(), (79, 14_000_000, 14, true));
        // The end is not told; what comes after it is of the present, and one of the first that are written now does.
        let present = (15..500).find_map(|n| {
            let before = clock::monotonic_ns();
            OpenOptions::new().append(true).open(&path).unwrap().write_all(xid(n, 95).as_bytes()).unwrap();
            let (code, at, sequence, past) = next();
            assert_eq!((code, sequence), (95, n));
            (!past).then_some((before, at))
        });
        assert!(present.is_some_and(|(before, at)| at >= before), "{present:?}");
        drop(kmsg);
        let (_kmsg, next) = read(None);
        assert_eq!(next(), (48, 10_000_000, 10, true), "without a word of before, from the beginning");
    }

    #[test]
    fn the_real_log_opens_where_it_may() {
        match Kmsg::spawn(Path::new("/dev/kmsg"), Lines::built_in().unwrap(), None, |_| {}) {
            Ok(kmsg) => drop(kmsg),
            Err(error) => eprintln!("skipped: {error}: {}", error.source),
        }
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_is_read() {
        let (mut reader, rx) = reader();
        for _ in 0..100 {
            reader.bytes(&[b'x'; 1_000]);
        }
        assert!(reader.rest.len() <= LINE);
        reader.bytes(b"NVRM\n4,9,1,-;NVRM: Xid (PCI:0000:3b:00): 48, x\n");
        assert_eq!(rx.try_recv().unwrap(), KmsgEvent::Cut, "told once");
        let event = rx.try_recv().unwrap();
        assert!(matches!(event, KmsgEvent::LogFact { fact: LogFact::Xid { code: 48, .. }, .. }), "{event:?}");
    }

    #[test]
    fn a_line_that_is_cut_where_it_ends_costs_the_next_nothing() {
        let (mut reader, rx) = reader();
        let long = format!("4,9,1,-;{}\n4,10,1,-;NVRM: Xid (PCI:0000:3b:00): 48, x\n", "x".repeat(LINE));
        reader.bytes(long.as_bytes());
        assert_eq!(rx.try_recv().unwrap(), KmsgEvent::Cut);
        let event = rx.try_recv().unwrap();
        assert!(matches!(event, KmsgEvent::LogFact { fact: LogFact::Xid { code: 48, .. }, .. }), "{event:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_harmless(pieces in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..600), 0..40)
        ) {
            let (mut reader, _rx) = reader();
            for piece in pieces {
                reader.bytes(&piece);
                prop_assert!(reader.rest.len() <= LINE);
            }
        }
    }
}
