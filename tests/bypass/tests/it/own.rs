//! failsafe's own processes, pins, maps, sockets and records. Every attempt has a node to itself: it may be no more afterwards.

use crate::{
    inside::Inside,
    outsider::{becomes, process},
    report::Report,
    trial::{Role, Seen, Stage, act, compare, lsm},
    witness::Witness,
};
use anyhow::{Context, Result};
use bypass::table::{DAEMON, PINS, RECORDS, Row};
use integration::{Node, frozen, on_node};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::LimitValue;
use std::{fs, path::Path};

#[test]
fn the_daemon() -> Result<()> {
    judged("daemon", DAEMON)
}

#[test]
fn pins_and_maps() -> Result<()> {
    judged("pins", PINS)
}

#[test]
fn records_and_sockets() -> Result<()> {
    judged("records", RECORDS)
}

/// There is nothing that nobody could do there, bounded or not: the control is always root's.
fn judged(subject: &str, rows: &[Row]) -> Result<()> {
    let name = format!("bypass-own-{subject}");
    let mut with_lsm = None;
    on_node(&name, "", |node| {
        with_lsm = Some(lsm(node)?);
        Ok(())
    })?;
    // Skipped, and said so.
    let Some(with_lsm) = with_lsm else { return Ok(()) };
    let mut report = Report::new(&format!("failsafe's own: {subject}"), with_lsm);
    for (row, user) in rows.iter().flat_map(|row| row.who.users().iter().map(move |user| (row, *user))) {
        let judged = compare(row.expected(with_lsm), false, |role| {
            let who = if role == Role::Control { "root" } else { user };
            let mut seen: Option<Seen> = None;
            on_node(&name, "", |node| {
                let mut own = Own::new(node)?;
                seen = Some(act(node, row, who, role, with_lsm, &mut own)?);
                Ok(())
            })?;
            seen.context("there was no node")
        });
        report.add(row, user, row.expected(with_lsm), judged.with_context(|| format!("{} as {user}", row.attempt)));
    }
    report.close()
}

struct Own {
    witness: Witness,
    token: String,
    daemon: u32,
}

impl Own {
    fn new(node: &Node) -> Result<Own> {
        let daemon = u32::try_from(node.pid()?)?;
        Ok(Own { witness: Witness::new()?, token: String::new(), daemon })
    }
}

impl Stage for Own {
    fn policy(&mut self, _: &Row, _: bool) -> Result<String> {
        let home = self.witness.home()?;
        Ok(format!(
            "[policy]\nname = \"only-home\"\nowner = \"tests\"\n\
             [egress]\nallow = [{{ cidr = \"{}/32\", ports = [{}] }}]\n",
            home.ip(),
            home.port()
        ))
    }

    fn prepare(&mut self, node: &Node, row: &Row, _: &str) -> Result<Vec<String>> {
        self.token = self.witness.token();
        let (path, folder) = match row.attempt {
            "write-state" | "append-to-log" => (node.state_dir().to_owned(), node.mount().to_owned()),
            "remove-socket" => (node.socket(), node.mount().to_owned()),
            _ => (node.pins().to_owned(), node.mount().to_owned()),
        };
        let (path, folder) = (path.display().to_string(), folder.display().to_string());
        let (pid, to) = (self.daemon.to_string(), self.witness.forbidden().to_string());
        let told = ["--pid", &pid, "--to", &to, "--token", &self.token, "--path", &path, "--folder", &folder];
        Ok(told.map(str::to_owned).to_vec())
    }

    fn happened(&mut self, node: &Node, row: &Row, _: &Inside) -> Result<Option<String>> {
        let when = |is: bool, what: &str| Ok(is.then(|| what.to_owned()));
        match row.attempt {
            "kill-daemon" => when(becomes(self.daemon, 'Z'), "the daemon is dead"),
            "stop-daemon" => when(becomes(self.daemon, 'T'), "the daemon stands"),
            "renice-daemon" => when(process(self.daemon)?.stat()?.nice == 10, "the daemon comes last"),
            "limit-daemon" => {
                let soft = process(self.daemon)?.limits()?.max_open_files.soft_limit;
                when(matches!(soft, LimitValue::Value(1_234)), "the daemon is limited")
            }
            "offer-daemon-to-oom" => when(process(self.daemon)?.oom_score_adj()? == 999, "the daemon is to end first"),
            "trace-daemon" => when(process(self.daemon)?.status()?.tracerpid != 0, "the daemon is traced"),
            "remove-pins" => when(count(node.pins()) == 0, "no pins"),
            "mount-over-pins" => {
                let pins = node.pins().display().to_string();
                when(procfs::mounts()?.iter().any(|mount| mount.fs_file == pins), "a mount over the pins")
            }
            "write-state" => when(node.state_dir().join("intruder").exists(), "a file among the records"),
            "append-to-log" => when(logs(node.state_dir()).contains("intruder"), "a stranger's words in the log"),
            "remove-socket" => when(!node.socket().exists(), "no socket"),
            _ => self.witness.since(&self.token),
        }
    }

    /// There may be no daemon to ask, and no log.
    fn stopped(&self, _: &Node, run: &Inside) -> Result<bool> {
        frozen(run.cgroup())
    }

    fn denied(&self, _: &Node, _: &Inside) -> Result<bool> {
        Ok(false)
    }

    fn tidy(&mut self, node: &mut Node) -> Result<()> {
        let _ = kill(Pid::from_raw(i32::try_from(self.daemon)?), Signal::SIGCONT);
        // Mounted only where the attempt got through.
        let _ = umount2(node.pins(), MntFlags::MNT_DETACH);
        Ok(())
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|e| if e.path().is_dir() { files(&e.path()) } else { vec![e.path()] }).collect()
}

fn count(folder: &Path) -> usize {
    files(folder).len()
}

fn logs(folder: &Path) -> String {
    files(folder).iter().filter_map(|f| fs::read(f).ok()).map(|b| String::from_utf8_lossy(&b).into_owned()).collect()
}
