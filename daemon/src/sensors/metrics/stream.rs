//! Connections: lines of text, as many at once as the client likes, and an answer where it asks for one.
//!
//! | line | meaning |
//! |---|---|
//! | `NAME VALUE [STEP] [rank=LABEL]` | a metric |
//! | `!rank LABEL` | the series of the lines that follow |
//! | `!oneshot` | each value comes from a process of its own: the series outlives it |
//! | `!lost N` | the client lost this many values |
//! | `!peer` | of the gateway: with a connection, whose process the lines that follow are of; see `relay` |
//! | `!refused N WORD` | what reads other formats refused this many values |
//! | `?` | answered with `accepted A refused R [REASON]`, counted since the last answer |
//!
//! Who connected decides whose run it is, by its cgroup when the lines are read. A line that another process wrote over an
//! inherited or passed descriptor is refused: the kernel stamps each write with its writer.

mod relay;

use super::{
    MetricsError, MetricsEvent, Reporting, Runs, Shared, failed, flow::Reporter, open_to_all, parse, peer::Peer,
    replace,
};
use crate::platform::{
    clock,
    received::{Received, receive},
};
use failsafe_core::{RunId, signal::Series};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollEvent, EpollFlags},
        resource::{Resource, getrlimit},
        socket::{setsockopt, sockopt},
    },
};
use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

/// Connections in all; never more than a quarter of the descriptors that the daemon may have.
const CONNECTIONS: usize = 4_096;
/// ... of them kept for root.
const RESERVE: usize = 256;
/// ... of one run.
const OF_A_RUN: usize = 512;
/// ... of one user.
const OF_A_USER: usize = 1_024;
/// Bytes read of a connection in one turn.
const TURN: usize = 64 << 10;
/// Longest line.
const MAX_LINE: usize = 512;
/// How long a look at the peer's cgroup counts.
const LOOK_LASTS_NS: u64 = 10_000_000;

/// How often the run of a process is looked for for which the gateway reports and which is in none.
const SEEK_AGAIN_NS: u64 = 1_000_000_000;

const NO_RUN: &str = "the process is in no run that failsafed watches";

pub(super) fn bind(path: &Path) -> Result<UnixListener, MetricsError> {
    replace(path, UnixStream::connect(path).map(drop))?;
    let listener = UnixListener::bind(path).map_err(failed("bind", path))?;
    listener.set_nonblocking(true).map_err(failed("set up", path))?;
    // Before anybody can connect and write: what is written from then on carries its writer.
    setsockopt(&listener, sockopt::PassCred, &true).map_err(|e| failed("ask credentials of", path)(e.into()))?;
    open_to_all(path)?;
    Ok(listener)
}

pub(super) struct Streams {
    listener: UnixListener,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    most: usize,
    /// The listener is not waited for: there was no descriptor for a connection.
    full: bool,
    buffer: Vec<u8>,
}

struct Connection {
    socket: UnixStream,
    /// The process whose values it carries.
    peer: Peer,
    /// The process that connected, and writes.
    writer: u32,
    /// Whether the gateway connected.
    of_gateway: bool,
    /// It is the gateway's, and has not been passed a connection yet.
    relays: bool,
    /// Why it is in no run, where it is in none.
    nobody: String,
    /// When the run of a process was looked for last for which the gateway reports, and there was none.
    sought_ns: Option<u64>,
    series: Series,
    oneshot: bool,
    of: Option<Reporting>,
    looked_ns: u64,
    /// The beginning of a line of which the end has not come.
    partial: Vec<u8>,
    /// The line was too long: what comes up to its end is left out.
    skipping: bool,
    paused: bool,
    accepted: u64,
    refused: u64,
    why: Option<String>,
}

impl Streams {
    pub(super) fn new(listener: UnixListener, first: u64) -> Streams {
        let open = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
        let most = CONNECTIONS.min(usize::try_from(open / 4).unwrap_or(CONNECTIONS));
        Streams { listener, connections: BTreeMap::new(), next: first, most, full: false, buffer: vec![0; TURN] }
    }

    pub(super) fn accept<R: Runs, F: FnMut(MetricsEvent)>(&mut self, epoll: &Epoll, shared: &mut Shared<R, F>) {
        for _ in 0..64 {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
                Err(error) => {
                    tracing::warn!(%error, "a metrics connection cannot be accepted");
                    self.full = true;
                    let _kept =
                        epoll.modify(&self.listener, &mut EpollEvent::new(EpollFlags::empty(), super::LISTENER));
                    return;
                }
            };
            if let Err(why) = self.admit(&socket, epoll, shared) {
                let _nobody = socket.set_nonblocking(true);
                let _gone = (&socket).write_all(format!("accepted 0 refused 1 {why}\n").as_bytes());
            }
        }
    }

    fn admit<R: Runs, F: FnMut(MetricsEvent)>(
        &mut self,
        socket: &UnixStream,
        epoll: &Epoll,
        shared: &mut Shared<R, F>,
    ) -> Result<(), String> {
        let peer = Peer::of(socket, &shared.proc).ok_or("the process that connected has ended")?;
        let cgroup = peer.cgroup(&shared.proc).ok_or("the process that connected has ended")?;
        let of = shared.runs.of_cgroup(&cgroup);
        let relays = of.is_none() && shared.runs.relays(peer.uid, &cgroup);
        if of.is_none() && !relays {
            return Err(NO_RUN.to_owned());
        }
        if let Some(why) = self.too_many(of.as_ref().map(|of| of.run), peer.uid) {
            if let Some(of) = of {
                shared.lose(of.run, &why, 1);
            }
            return Err(why);
        }
        let token = self.next;
        let set_up = || -> std::io::Result<UnixStream> {
            let socket = socket.try_clone()?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::PassCred, &true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            Ok(socket)
        };
        let socket = set_up().map_err(|error| format!("failsafed cannot take the connection: {error}"))?;
        self.next += 1;
        let series = Series::Process { pid: peer.pid, start_ticks: peer.start_ticks };
        let connection = Connection {
            socket,
            peer,
            writer: peer.pid,
            of_gateway: relays,
            relays,
            nobody: NO_RUN.to_owned(),
            sought_ns: None,
            series,
            oneshot: false,
            of,
            looked_ns: clock::monotonic_ns(),
            partial: Vec::new(),
            skipping: false,
            paused: false,
            accepted: 0,
            refused: 0,
            why: None,
        };
        self.connections.insert(token, connection);
        Ok(())
    }

    /// Which limit one more connection would exceed.
    fn too_many(&self, run: Option<RunId>, uid: u32) -> Option<String> {
        let all = self.connections.len();
        let count = |same: &dyn Fn(&Connection) -> bool| self.connections.values().filter(|c| same(c)).count();
        let limit = if uid == 0 { self.most } else { self.most.saturating_sub(RESERVE) };
        if all >= limit {
            Some(format!("{all} metrics connections on this node (limit {limit})"))
        } else if run.is_some() && count(&|c| c.run() == run) >= OF_A_RUN {
            Some(format!("{OF_A_RUN} metrics connections of this run (limit {OF_A_RUN})"))
        } else if uid != 0 && count(&|c| c.peer.uid == uid) >= OF_A_USER {
            Some(format!("{OF_A_USER} metrics connections of user {uid} (limit {OF_A_USER})"))
        } else {
            None
        }
    }

    /// Reads one turn of a connection.
    pub(super) fn ready<R: Runs, F: FnMut(MetricsEvent)>(
        &mut self,
        token: u64,
        epoll: &Epoll,
        shared: &mut Shared<R, F>,
    ) {
        let now = clock::monotonic_ns();
        let sought_ns = self.connections.get(&token).and_then(|connection| connection.sought_ns);
        if sought_ns.is_some_and(|sought| now.saturating_sub(sought) >= SEEK_AGAIN_NS) {
            self.seek(token, shared);
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.look(now, shared);
        let quota = match &connection.of {
            Some(of) => shared.flow(of, now).may_read(TURN as u64, now),
            // What no run sends is read to be refused, and no more than a run may send.
            None => TURN as u64,
        };
        if quota == 0 {
            connection.paused = true;
            let _kept = epoll.modify(&connection.socket, &mut EpollEvent::new(EpollFlags::empty(), token));
            return;
        }
        let room = usize::try_from(quota).unwrap_or(TURN).min(TURN);
        let received = match receive(&connection.socket, &mut self.buffer[..room], connection.relays) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => {
                connection.give_back(quota, shared);
                return;
            }
            Err(_) => Received::default(),
        };
        let read = received.bytes;
        connection.give_back(quota - read as u64, shared);
        let own = received.writer == Some(connection.writer);
        if let Some(passed) = received.file.filter(|_| own) {
            self.adopt(token, &passed, shared);
        }
        let keep = match self.connections.get_mut(&token) {
            Some(connection) if read > 0 => connection.lines(&self.buffer[..read], own, now, shared),
            _ => false,
        };
        if !keep && let Some(connection) = self.connections.remove(&token) {
            let _gone = epoll.delete(&connection.socket);
        }
    }

    /// Reads connections again that waited for their run's quota; whether some still wait.
    pub(super) fn resume<R: Runs, F: FnMut(MetricsEvent)>(
        &mut self,
        epoll: &Epoll,
        shared: &mut Shared<R, F>,
        now_ns: u64,
    ) -> bool {
        let mut waiting = false;
        for (token, connection) in self.connections.iter_mut().filter(|(_, c)| c.paused) {
            let quota = connection.of.as_ref().map_or(1, |of| shared.flow(of, now_ns).may_read(TURN as u64, now_ns));
            connection.give_back(quota, shared);
            if quota < TURN as u64 && connection.of.is_some() {
                waiting = true;
                continue;
            }
            connection.paused = false;
            let _kept = epoll.modify(&connection.socket, &mut EpollEvent::new(EpollFlags::EPOLLIN, *token));
        }
        waiting
    }

    /// Waits for connections again, where there was no descriptor for one.
    pub(super) fn listen_again(&mut self, epoll: &Epoll) {
        if std::mem::take(&mut self.full) {
            let _kept = epoll.modify(&self.listener, &mut EpollEvent::new(EpollFlags::EPOLLIN, super::LISTENER));
        }
    }
}

impl Connection {
    fn run(&self) -> Option<RunId> {
        self.of.as_ref().map(|of| of.run)
    }

    /// In which run the peer is now: it may have been moved since it connected.
    fn look<R: Runs, F>(&mut self, now: u64, shared: &Shared<R, F>) {
        // Where there was no run or no room for it, `seek` looks, within the limits.
        if self.sought_ns.is_none() && now.saturating_sub(self.looked_ns) >= LOOK_LASTS_NS {
            self.looked_ns = now;
            let cgroup = self.peer.cgroup(&shared.proc);
            // One that ended after it wrote was in the run that it was last seen in.
            if let Some(cgroup) = cgroup {
                self.of = shared.runs.of_cgroup(&cgroup);
            } else if self.run().is_some_and(|run| !shared.runs.lives(run)) {
                self.of = None;
            }
        }
    }

    fn give_back<R: Runs, F: FnMut(MetricsEvent)>(&self, bytes: u64, shared: &mut Shared<R, F>) {
        if let Some(flow) = self.run().and_then(|run| shared.flows.get_mut(&run)) {
            flow.not_read(bytes);
        }
    }

    /// Takes what was read; false where the connection is to be closed.
    fn lines<R: Runs, F: FnMut(MetricsEvent)>(
        &mut self,
        bytes: &[u8],
        own: bool,
        now: u64,
        shared: &mut Shared<R, F>,
    ) -> bool {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = &after[1..];
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let keep = if self.partial.is_empty() {
                self.line(line, own, now, shared)
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, own, now, shared)
            };
            if !keep {
                return false;
            }
        }
        if !self.skipping {
            self.partial.extend_from_slice(rest);
            if self.partial.len() > MAX_LINE {
                self.partial = Vec::new();
                self.skipping = true;
                self.refuse("a line is longer than 512 bytes", shared);
            }
        }
        true
    }

    fn line<R: Runs, F: FnMut(MetricsEvent)>(
        &mut self,
        line: &[u8],
        own: bool,
        now: u64,
        shared: &mut Shared<R, F>,
    ) -> bool {
        let Ok(text) = std::str::from_utf8(line) else {
            self.refuse("a line is not UTF-8", shared);
            return true;
        };
        let text = text.trim();
        if text.is_empty() {
            return true;
        }
        if text == "?" {
            return self.answer();
        }
        if !own {
            self.refuse("written by another process than the one that connected: connect in each process", shared);
            return true;
        }
        if let Some(command) = text.strip_prefix('!') {
            self.command(command, shared);
            return true;
        }
        match parse::line(text) {
            Ok(line) if line.name.len() <= MAX_LINE => self.metric(&line, now, shared),
            Ok(_) => self.refuse("a name is too long", shared),
            Err(bad) => self.refuse(&bad.to_string(), shared),
        }
        true
    }

    fn command<R: Runs, F: FnMut(MetricsEvent)>(&mut self, command: &str, shared: &mut Shared<R, F>) {
        match command.split_once(' ') {
            None if command == "oneshot" => self.oneshot = true,
            Some(("rank", label)) => match Series::rank(label) {
                Some(series) => self.series = series,
                None => self.refuse(&parse::Bad::Rank.to_string(), shared),
            },
            None if command == "peer" && self.of_gateway => {}
            Some(("refused", rest)) => self.refused_before(rest, shared),
            Some(("lost", count)) => {
                if let (Some(run), Ok(count)) = (self.run(), count.parse()) {
                    shared.lose(run, "the client's buffer was full", count);
                }
            }
            _ => self.refuse("unknown command, expected !rank LABEL, !oneshot or !lost N", shared),
        }
    }

    fn metric<R: Runs, F: FnMut(MetricsEvent)>(&mut self, line: &parse::Line<'_>, now: u64, shared: &mut Shared<R, F>) {
        let Some(of) = &self.of else {
            let why = self.nobody.clone();
            self.refuse(&why, shared);
            return;
        };
        let by = Reporter { pid: self.peer.pid, start_ticks: self.peer.start_ticks, oneshot: self.oneshot };
        let series = line.rank.as_ref().unwrap_or(&self.series);
        match shared.take(of, line, series, by, now) {
            Ok(()) => self.accepted += 1,
            Err(refused) => {
                self.refused += 1;
                self.why.get_or_insert(refused.to_string());
            }
        }
    }

    fn refuse<R: Runs, F: FnMut(MetricsEvent)>(&mut self, why: &str, shared: &mut Shared<R, F>) {
        self.refuse_many(1, why, shared);
    }

    fn refuse_many<R: Runs, F: FnMut(MetricsEvent)>(&mut self, count: u64, why: &str, shared: &mut Shared<R, F>) {
        self.refused = self.refused.saturating_add(count);
        if self.why.is_none() {
            self.why = Some(why.to_owned());
        }
        match self.run() {
            Some(run) => shared.lose(run, &format!("refused: {why}"), count),
            None => shared.garbage = shared.garbage.saturating_add(count),
        }
    }

    /// Answers what became of the lines since the last answer. A client that does not read its answers is let go.
    fn answer(&mut self) -> bool {
        let why = self.why.take().map(|why| format!(" {why}")).unwrap_or_default();
        let (accepted, refused) = (std::mem::take(&mut self.accepted), std::mem::take(&mut self.refused));
        let text = format!("accepted {accepted} refused {refused}{why}\n");
        self.socket.write_all(text.as_bytes()).is_ok()
    }
}
