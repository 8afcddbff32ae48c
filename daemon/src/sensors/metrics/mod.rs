//! The metrics sockets, which anybody may write to: a stream (`PATH.stream`) and, for older clients, datagrams (`PATH`).
//!
//! ```text
//! stream ──► who connected (kernel) ─► its cgroup now ─► run ─┐
//! datagram ► who sent (credentials) ─► its cgroup ─────► run ─┴► Flow (quota) ─► MetricsEvent
//! ```
//!
//! Owns the sockets, the connections and one thread. On the stream the kernel's note of who connected decides, which no
//! process can forge, and each value is answered for. The credentials of a datagram can be forged by root, so a datagram counts
//! only where no other run is root's. What is not accepted is counted by run and reported once a second; nothing that a run
//! sends makes another run's values wait for more than one turn.

mod datagram;
mod flow;
mod limit;
pub mod parse;
mod peer;
mod stream;

use crate::platform::{ProcFs, clock};
use failsafe_core::{RunId, signal::Series};
use failsafe_files::socket::{Taken, replace_stale};
pub use flow::Needed;
use flow::{Flow, Reporter};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::EventFd,
    },
};
use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

/// What was not accepted is reported, and series are looked after, this often.
const REPORT_EVERY_NS: u64 = 1_000_000_000;
/// While values wait for their run's quota, the thread looks this often.
const SETTLE_EVERY_MS: u8 = 10;
/// A rank of which the process has ended keeps its series for this long: a restarted rank goes on with it.
const RANK_LINGERS_NS: u64 = 10_000_000_000;
/// A series of which each value comes from a process of its own ends after this.
const ONESHOT_LASTS_NS: u64 = 3_600_000_000_000;

const STOP: u64 = 0;
const DATAGRAMS: u64 = 1;
const LISTENER: u64 = 2;
const FIRST_CONNECTION: u64 = 3;

/// A metric of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// When it was read, `CLOCK_MONOTONIC` ns.
    pub mono_ns: u64,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The training step, where it was given.
    pub step: Option<u64>,
    /// Which of the run's series it belongs to.
    pub series: Series,
    /// How many values before it, of the same metric and series, it stands for as well.
    pub repeats: u64,
}

/// What arrives.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricsEvent {
    /// A metric.
    Metric {
        /// The run.
        run: RunId,
        /// The metric.
        metric: Metric,
    },
    /// A series has ended.
    SeriesEnded {
        /// The run.
        run: RunId,
        /// The series.
        series: Series,
        /// When that was seen.
        mono_ns: u64,
    },
    /// Values of a run that are lost or were refused since the last report.
    Lost {
        /// The run.
        run: RunId,
        /// Why.
        why: String,
        /// How many.
        count: u64,
    },
    /// Lines from outside all runs, or that were no metrics, since the last report.
    Garbage {
        /// How many.
        count: u64,
    },
}

/// A live run, as far as the reader needs to know it.
#[derive(Debug, Clone)]
pub struct Reporting {
    /// The run.
    pub run: RunId,
    /// Metrics that its rules need.
    pub needed: Arc<Needed>,
}

/// The live runs, which somebody else keeps.
pub trait Runs: Send + 'static {
    /// The run that a cgroup of `/proc/PID/cgroup` is in.
    fn of_cgroup(&self, cgroup: &Path) -> Option<Reporting>;
    /// Whether the run is still live.
    fn lives(&self, run: RunId) -> bool;
    /// Whether another live run belongs to root: it may forge the sender of a datagram.
    fn another_is_roots(&self, run: RunId) -> bool;
    /// Whether a process of this user in this cgroup is the gateway, and may report for processes that connected to it.
    fn relays(&self, _uid: u32, _cgroup: &Path) -> bool {
        false
    }
}

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Somebody listens there.
    #[error("another daemon listens on metrics socket {0}")]
    InUse(PathBuf),
    /// The kernel refused.
    #[error("cannot {op} metrics socket {path}")]
    Socket {
        /// What was being done.
        op: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The path of the stream socket beside the datagram socket at `path`.
pub fn stream_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".stream");
    name.into()
}

/// The bound sockets.
#[derive(Debug)]
pub struct MetricsSocket {
    datagrams: std::os::unix::net::UnixDatagram,
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl MetricsSocket {
    /// Binds both; everybody may write. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn bind(path: &Path) -> Result<MetricsSocket, MetricsError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed("make the folder of", path))?;
        }
        let datagrams = datagram::bind(path)?;
        let listener = stream::bind(&stream_path(path))?;
        Ok(MetricsSocket { datagrams, listener, path: path.to_owned() })
    }

    /// Reads them on a thread of its own. While `sink` blocks, senders wait and nothing is lost.
    ///
    /// # Errors
    /// The thread or its descriptors could not be made.
    pub fn spawn(self, runs: impl Runs, sink: impl FnMut(MetricsEvent) + Send + 'static) -> std::io::Result<Running> {
        let stop = Arc::new(EventFd::from_value(0)?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let paths = [self.path.clone(), stream_path(&self.path)];
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&*stop, readable(STOP))?;
        epoll.add(&self.datagrams, readable(DATAGRAMS))?;
        epoll.add(&self.listener, readable(LISTENER))?;
        let reader = Reader {
            epoll,
            datagrams: datagram::Datagrams::new(self.datagrams),
            streams: stream::Streams::new(self.listener, FIRST_CONNECTION),
            shared: Shared {
                runs,
                sink,
                flows: BTreeMap::new(),
                lost: BTreeMap::new(),
                garbage: 0,
                proc: ProcFs::default(),
            },
            reported_ns: clock::monotonic_ns(),
        };
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(move || reader.work())?;
        Ok(Running { stop, thread: Some(thread), paths })
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> MetricsError {
    move |source| MetricsError::Socket { op, path: path.to_owned(), source }
}

/// Removes a socket that nobody listens on.
fn replace(path: &Path, connected: std::io::Result<()>) -> Result<(), MetricsError> {
    replace_stale(path, connected).map_err(|taken| match taken {
        Taken::InUse => MetricsError::InUse(path.to_owned()),
        Taken::Failed(error) => failed("replace what is at", path)(error),
    })
}

fn open_to_all(path: &Path) -> Result<(), MetricsError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed("open up", path))
}

/// The running reader; dropping it stops it and removes the sockets.
#[derive(Debug)]
pub struct Running {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    paths: [PathBuf; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        let _woken = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metrics thread panicked");
        }
        for path in &self.paths {
            let _gone = std::fs::remove_file(path);
        }
    }
}

struct Reader<R, F> {
    epoll: Epoll,
    datagrams: datagram::Datagrams,
    streams: stream::Streams,
    shared: Shared<R, F>,
    reported_ns: u64,
}

/// What both sockets need.
struct Shared<R, F> {
    runs: R,
    sink: F,
    flows: BTreeMap<RunId, Flow>,
    lost: BTreeMap<(RunId, String), u64>,
    garbage: u64,
    proc: ProcFs,
}

impl<R: Runs, F: FnMut(MetricsEvent)> Reader<R, F> {
    fn work(mut self) {
        let mut ready = vec![EpollEvent::empty(); 1_024];
        let mut waiting = false;
        loop {
            let wait = if waiting { EpollTimeout::from(SETTLE_EVERY_MS) } else { EpollTimeout::from(1_000u16) };
            let count = match self.epoll.wait(&mut ready, wait) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "the metrics sockets cannot be waited for");
                    return;
                }
            };
            let tokens: Vec<u64> = ready.iter().take(count).map(EpollEvent::data).collect();
            for token in tokens {
                match token {
                    STOP => return,
                    DATAGRAMS => self.datagrams.drain(&mut self.shared),
                    LISTENER => self.streams.accept(&self.epoll, &mut self.shared),
                    connection => self.streams.ready(connection, &self.epoll, &mut self.shared),
                }
            }
            let now = clock::monotonic_ns();
            waiting = self.shared.settle(now) | self.streams.resume(&self.epoll, &mut self.shared, now);
            if now.saturating_sub(self.reported_ns) >= REPORT_EVERY_NS {
                self.reported_ns = now;
                self.datagrams.report(&mut self.shared);
                self.streams.listen_again(&self.epoll);
                self.shared.look_after(now);
                self.shared.report();
            }
        }
    }
}

impl<R: Runs, F: FnMut(MetricsEvent)> Shared<R, F> {
    /// The flow of a run, made at its first value.
    fn flow(&mut self, of: &Reporting, now_ns: u64) -> &mut Flow {
        self.flows.entry(of.run).or_insert_with(|| Flow::new(of.needed.clone(), now_ns))
    }

    fn take(
        &mut self,
        of: &Reporting,
        line: &parse::Line<'_>,
        series: &Series,
        by: Reporter,
        now_ns: u64,
    ) -> Result<(), flow::Refused> {
        let run = of.run;
        let flow = self.flows.entry(run).or_insert_with(|| Flow::new(of.needed.clone(), now_ns));
        let taken = flow.take(line, series, by, now_ns, |metric| (self.sink)(MetricsEvent::Metric { run, metric }));
        if let Err(refused) = taken {
            self.lose(run, &refused.to_string(), 1);
        }
        taken
    }

    fn lose(&mut self, run: RunId, why: &str, count: u64) {
        let lost = self.lost.entry((run, why.to_owned())).or_default();
        *lost = lost.saturating_add(count);
    }

    fn settle(&mut self, now_ns: u64) -> bool {
        let mut waiting = false;
        for (run, flow) in &mut self.flows {
            let run = *run;
            waiting |= flow.settle(now_ns, |metric| (self.sink)(MetricsEvent::Metric { run, metric }));
        }
        waiting
    }

    /// Runs that ended are forgotten, and series of which the process has ended are retired.
    fn look_after(&mut self, now_ns: u64) {
        let runs = &self.runs;
        self.flows.retain(|run, _| runs.lives(*run));
        for (run, flow) in &mut self.flows {
            let run = *run;
            let mut over = Vec::new();
            for (series, live) in &mut flow.series {
                let quiet = now_ns.saturating_sub(live.last_ns);
                if live.by.oneshot {
                    if quiet > ONESHOT_LASTS_NS {
                        over.push(series.clone());
                    }
                    continue;
                }
                if quiet < REPORT_EVERY_NS || peer::lives(&self.proc, live.by.pid, live.by.start_ticks) {
                    continue;
                }
                let ended = *live.ended_ns.get_or_insert(now_ns);
                let linger = if matches!(series, Series::Rank(_)) { RANK_LINGERS_NS } else { 0 };
                if now_ns.saturating_sub(ended) >= linger {
                    over.push(series.clone());
                }
            }
            for series in over {
                flow.retire(&series, |metric| (self.sink)(MetricsEvent::Metric { run, metric }));
                (self.sink)(MetricsEvent::SeriesEnded { run, series, mono_ns: now_ns });
            }
        }
    }

    fn report(&mut self) {
        for ((run, why), count) in std::mem::take(&mut self.lost) {
            (self.sink)(MetricsEvent::Lost { run, why, count });
        }
        let count = std::mem::take(&mut self.garbage);
        if count > 0 {
            (self.sink)(MetricsEvent::Garbage { count });
        }
    }
}

#[cfg(test)]
mod tests;
