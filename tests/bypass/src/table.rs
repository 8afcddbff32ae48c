//! What every attempt must come to. A row says what holds where only cgroup hooks and tracepoints load, and what holds where
//! LSM programs load as well.

use Come::{Blocked, Contained, Leak};
use Who::{Both, Nobody, Root};

/// Who makes the attempt inside the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Root, and again as nobody.
    Both,
    /// Root; for anybody else the kernel refuses it by itself, with a policy or without.
    Root,
    /// Nobody; for root another row holds.
    Nobody,
}

impl Who {
    /// The users by name.
    #[must_use]
    pub fn users(self) -> &'static [&'static str] {
        match self {
            Both => &["root", "nobody"],
            Root => &["root"],
            Nobody => &["nobody"],
        }
    }
}

/// What an attempt comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Come {
    /// Refused, and nothing of it was seen outside.
    Blocked,
    /// The run was frozen or the process brought back, by a decision on record; it had happened, or was about to.
    Contained,
    /// It happened and nothing stopped it: the row of the threat model that begins with these words says why.
    Leak(&'static str),
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The attempt's name.
    pub attempt: &'static str,
    /// Who makes it.
    pub who: Who,
    /// With cgroup hooks and tracepoints only.
    pub cgroup: Come,
    /// With LSM programs too.
    pub lsm: Come,
}

impl Row {
    /// What it must come to.
    #[must_use]
    pub fn expected(&self, lsm: bool) -> Come {
        if lsm { self.lsm } else { self.cgroup }
    }
}

const fn row(attempt: &'static str, who: Who, cgroup: Come, lsm: Come) -> Row {
    Row { attempt, who, cgroup, lsm }
}

const HANDED_IN: Come = Leak("a socket made outside the run and handed in");
const PACKETS: Come = Leak("`AF_PACKET` sockets");
const REPLIES: Come = Leak("replies on connections the run accepted");
const UNIX: Come = Leak("UNIX sockets of services on the node");

/// Ways to an address that is not on the list.
pub const SOCKETS: &[Row] = &[
    row("tcp-connect", Both, Blocked, Blocked),
    row("udp-send-to", Both, Blocked, Blocked),
    row("udp-connect", Both, Blocked, Blocked),
    row("udp-reconnect", Both, Blocked, Blocked),
    row("udp-connected-send-to", Both, Blocked, Blocked),
    row("udp-unspecified-family", Both, Blocked, Blocked),
    row("udp6-to-ipv4", Both, Blocked, Blocked),
    row("udp-batch", Both, Blocked, Blocked),
    row("tcp-fast-open", Both, Blocked, Blocked),
    row("tcp-fast-open-option", Both, Blocked, Blocked),
    row("tcp-repair", Root, Blocked, Blocked),
    row("mapped-tcp", Both, Blocked, Blocked),
    row("mapped-udp", Both, Blocked, Blocked),
    row("mapped-fast-open", Both, Blocked, Blocked),
    row("any-address-tcp", Both, Blocked, Blocked),
    row("any-address-udp", Both, Blocked, Blocked),
    row("ipv6-tcp", Both, Blocked, Blocked),
    row("ipv6-udp", Both, Blocked, Blocked),
    row("ipv6-any-address-tcp", Both, Blocked, Blocked),
    row("ipv6-any-address-udp", Both, Blocked, Blocked),
    row("ipv6-link-local-tcp", Both, Blocked, Blocked),
    row("ipv6-link-local-udp", Both, Blocked, Blocked),
    row("mptcp", Both, Blocked, Blocked),
    row("sctp", Both, Blocked, Blocked),
    row("udp-lite", Both, Blocked, Blocked),
];

/// The same, many at once or rewritten while the kernel reads them.
pub const RACES: &[Row] = &[
    row("race-send-to", Both, Blocked, Blocked),
    row("race-connect", Both, Blocked, Blocked),
    row("many-threads", Both, Blocked, Blocked),
];

/// The same through io_uring.
pub const URING: &[Row] = &[
    row("uring-connect", Both, Blocked, Blocked),
    row("uring-connect-kernel-thread", Both, Blocked, Blocked),
    row("uring-connect-worker", Both, Blocked, Blocked),
    row("uring-send-to", Both, Blocked, Blocked),
    row("uring-send-to-kernel-thread", Both, Blocked, Blocked),
    row("uring-send-to-worker", Both, Blocked, Blocked),
    row("uring-fast-open", Both, Blocked, Blocked),
    row("uring-mptcp-socket", Both, Blocked, Blocked),
];

/// Packets that the run writes itself.
pub const WIRE: &[Row] = &[
    row("raw", Root, Blocked, Blocked),
    row("raw-own-header", Root, Blocked, Blocked),
    row("raw6", Root, Blocked, Blocked),
    row("ping", Both, Blocked, Blocked),
    row("source-route", Root, Blocked, Blocked),
    row("packet", Root, PACKETS, Blocked),
    row("packet-by-inet", Root, PACKETS, Blocked),
];

/// Sockets that were not made in the run, and what comes in.
pub const FOREIGN: &[Row] = &[
    // As another user the command inherits nothing: `failsafectl run` closes the descriptors.
    row("inherited-udp", Root, HANDED_IN, HANDED_IN),
    row("inherited-tcp", Root, HANDED_IN, HANDED_IN),
    row("handed-in", Both, HANDED_IN, Blocked),
    row("taken-from-outside", Both, HANDED_IN, Blocked),
    row("listen-and-answer", Both, REPLIES, REPLIES),
    row("unix-socket", Both, UNIX, UNIX),
];

/// Out of the run's cgroup.
pub const CGROUP: &[Row] = &[
    row("move-self", Root, Contained, Blocked),
    row("move-child", Root, Contained, Blocked),
    row("clone-into", Root, Contained, Contained),
    row("clone-into-and-fork", Root, Contained, Contained),
    row("move-by-nested", Root, Contained, Blocked),
    row("move-by-own-mount", Root, Contained, Blocked),
    row("move-and-send", Root, Contained, Blocked),
];

const SIGNALS: Come = Leak("signals to other processes of the run's user");
const MEMORY_FILE: Come = Leak("`/proc/PID/mem`");

/// Other processes, namespaces, mounts and rights.
pub const PROCESS: &[Row] = &[
    row("ptrace-outside", Both, Contained, Blocked),
    row("write-memory-outside", Both, Contained, Blocked),
    row("write-memory-file-outside", Both, MEMORY_FILE, Blocked),
    row("signal-outside", Both, SIGNALS, SIGNALS),
    row("daemonise", Both, Blocked, Blocked),
    row("unshare-user", Both, Contained, Blocked),
    row("clone-user", Both, Contained, Blocked),
    row("unshare-mounts", Root, Contained, Blocked),
    row("enter-namespace", Root, Contained, Blocked),
    row("mount", Root, Contained, Blocked),
    row("mount-new-calls", Root, Contained, Blocked),
    row("mount-clone", Root, Contained, Blocked),
    row("setuid-program", Nobody, Contained, Blocked),
    row("executable-memory", Both, Contained, Blocked),
    row("turn-executable", Both, Contained, Blocked),
];

/// Forking on and on while its cgroup becomes a run.
pub const ADOPTION: &[Row] = &[row("fork-while-registered", Both, Blocked, Blocked)];

/// Amid so many events that the ring has no room.
pub const FLOOD: &[Row] = &[
    row("flood-and-send", Both, Blocked, Blocked),
    row("flood-and-exec", Both, Contained, Contained),
    row("flood-and-leave", Root, Contained, Blocked),
];

const ROOT: Come = Leak("a run as root");
const ALIAS: Come = Leak("a deny-list of paths");
const LISTS: Come = Leak("a list of programs, without LSM");
const LOADER: Come = Leak("a program started by the loader");
const OPENS: Come = Leak("files opened by another name");

/// The daemon. For nobody the kernel's permissions must do it, and the control is root's: here and in the next two.
pub const DAEMON: &[Row] = &[
    row("kill-daemon", Root, ROOT, Blocked),
    row("kill-daemon", Nobody, Blocked, Blocked),
    row("stop-daemon", Root, ROOT, Blocked),
    row("stop-daemon", Nobody, Blocked, Blocked),
    row("trace-daemon", Root, ROOT, Blocked),
    row("trace-daemon", Nobody, Blocked, Blocked),
    row("renice-daemon", Root, ROOT, Blocked),
    row("renice-daemon", Nobody, Blocked, Blocked),
    row("limit-daemon", Root, ROOT, Blocked),
    row("limit-daemon", Nobody, Blocked, Blocked),
    row("offer-daemon-to-oom", Root, ROOT, Blocked),
    row("offer-daemon-to-oom", Nobody, Blocked, Blocked),
    row("kill-daemon-and-send", Both, Blocked, Blocked),
];

/// What is pinned, and the programs and maps behind it.
pub const PINS: &[Row] = &[
    row("remove-pins", Root, ROOT, Blocked),
    row("remove-pins", Nobody, Blocked, Blocked),
    row("mount-over-pins", Root, ROOT, Blocked),
    row("mount-over-pins", Nobody, Blocked, Blocked),
    row("detach-links-and-send", Root, ROOT, Blocked),
    row("detach-links-and-send", Nobody, Blocked, Blocked),
    row("clear-maps-and-send", Root, ROOT, Blocked),
    row("clear-maps-and-send", Nobody, Blocked, Blocked),
];

/// Records and the sockets by which the daemon is spoken to.
pub const RECORDS: &[Row] = &[
    row("write-state", Root, ROOT, Blocked),
    row("write-state", Nobody, Blocked, Blocked),
    row("append-to-log", Root, ROOT, Blocked),
    row("append-to-log", Nobody, Blocked, Blocked),
    row("remove-socket", Root, ROOT, Blocked),
    row("remove-socket", Nobody, Blocked, Blocked),
];

/// A program that may not be run.
pub const EXEC: &[Row] = &[
    row("exec", Both, Contained, Blocked),
    row("exec-by-thread", Both, Contained, Blocked),
    row("exec-by-descriptor", Both, Contained, Blocked),
    row("exec-by-symlink", Both, Contained, Blocked),
    row("exec-by-dots", Both, Contained, Blocked),
    row("exec-by-proc-root", Both, Contained, Blocked),
    row("exec-by-hard-link", Both, Contained, Blocked),
    row("exec-by-shell", Both, Contained, Blocked),
    row("exec-as-interpreter", Both, Contained, Blocked),
    row("exec-by-loader", Both, LOADER, Blocked),
    row("exec-copy", Both, ALIAS, ALIAS),
    row("exec-memory-file", Both, Contained, Blocked),
    row("exec-deleted", Both, Contained, Blocked),
    row("exec-race", Both, Contained, Blocked),
];

/// A program that is not on a list.
pub const LISTED: &[Row] = &[
    row("not-listed", Both, LISTS, Blocked),
    row("listed-by-bind-mount", Both, LISTS, Blocked),
    row("listed-by-mount-clone", Both, LISTS, Blocked),
    row("listed-by-detached-tree", Both, LISTS, Blocked),
    row("listed-by-new-root", Both, LISTS, Blocked),
];

/// A file that may not be opened.
pub const PATHS: &[Row] = &[
    row("open", Both, Contained, Blocked),
    row("open-to-write", Both, Contained, Blocked),
    row("truncate", Both, Contained, Blocked),
    row("openat2", Both, Contained, Blocked),
    row("open-through-io-uring", Both, Contained, Blocked),
    row("open-through-io-uring-worker", Both, Contained, Blocked),
    row("open-by-symlink", Both, OPENS, Blocked),
    row("open-by-dots", Both, Contained, Blocked),
    row("open-by-proc-root", Both, OPENS, Blocked),
    row("open-by-descriptor", Both, Contained, Blocked),
    row("open-by-hard-link", Both, OPENS, Blocked),
    row("open-by-renamed-folder", Both, OPENS, Blocked),
    row("open-by-moved-file", Both, OPENS, Blocked),
    row("open-by-bind-mount", Root, OPENS, Blocked),
    row("open-by-mount-clone", Root, OPENS, Blocked),
    row("open-by-new-root", Root, OPENS, Blocked),
    row("open-by-handle", Root, OPENS, Blocked),
    row("open-race", Both, Contained, Blocked),
];

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [SOCKETS, RACES, URING, WIRE, FOREIGN, CGROUP, PROCESS, ADOPTION, FLOOD, DAEMON, PINS, RECORDS, EXEC, LISTED, PATHS]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_attempt_has_a_row_and_every_row_an_attempt() {
        let rows: BTreeSet<&str> = rows().map(|row| row.attempt).collect();
        let attempts: BTreeSet<&str> = crate::attempts::all().map(|(name, _)| name).collect();
        assert_eq!(rows, attempts);
    }
}
