//! The processes of a run: their commands, programs and processors.

use super::{
    common,
    folder::{Folder, is_gone},
};
use crate::{
    attest::cpu,
    platform::{
        ProcessId,
        proc::{ProcStat, parse_cgroup},
    },
    redact::Redactor,
};
use failsafe_attest::{Fact, Json, Missing};
use std::{collections::BTreeSet, path::Path};

/// Bytes of a command line that are read.
const COMMAND: u64 = 64 << 10;

/// A process that belonged to the run and had memory when it was looked at.
#[derive(Debug)]
pub(super) struct Process {
    pub id: ProcessId,
    pub folder: Folder,
    /// Lists of `/proc/PID/status`.
    cpus: Result<String, Missing>,
    memory_nodes: Result<String, Missing>,
}

impl Process {
    /// `None`: it is gone, has no memory left, or is no process of the run: its number may be another process's by now.
    /// `belongs` is asked about its cgroup before anything else is read.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(super) fn open(proc: &Path, pid: u32, belongs: &dyn Fn(&Path) -> bool) -> Result<Option<Process>, Missing> {
        let Some(folder) = Folder::open(proc.join(pid.to_string()))? else { return Ok(None) };
        let Some(cgroup) = folder.small("cgroup")? else { return Ok(None) };
        match parse_cgroup(&cgroup) {
            Some(path) if belongs(&path) => {}
            Some(_) => return Ok(None),
            None => return Err(Missing::unavailable(format!("process {pid} has no cgroup"))),
        }
        let Some(id) = alive(&folder, pid)? else { return Ok(None) };
        let status = folder.small("status").and_then(|bytes| {
            let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            text.ok_or_else(|| Missing::unavailable("the process ended while it was read"))
        });
        let list = |key| status.as_ref().map_err(Clone::clone).and_then(|status| line(status, key));
        let (cpus, memory_nodes) = (list("Cpus_allowed_list"), list("Mems_allowed_list"));
        Ok(Some(Process { id, folder, cpus, memory_nodes }))
    }

    /// Whether it has ended since.
    ///
    /// # Errors
    /// Only its main thread has.
    pub(super) fn ended(&self) -> Result<bool, Missing> {
        Ok(alive(&self.folder, self.id.pid)?.is_none())
    }

    fn command(&self, redact: &Redactor) -> Result<Json, Missing> {
        let bytes = match self.folder.bytes("cmdline", COMMAND) {
            Ok(bytes) => bytes,
            Err(error) if is_gone(&error) => {
                return Err(Missing::unavailable("the process ended while it was read"));
            }
            Err(error) => return Err(self.folder.missing("cmdline", &error)),
        };
        if bytes.len() as u64 > COMMAND {
            return Err(Missing::unavailable(format!("the command line has more than {COMMAND} bytes, the limit")));
        }
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        if bytes.is_empty() {
            // It is just being executed, or has erased them.
            return Err(Missing::unavailable("the process has no arguments"));
        }
        let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8(word.to_vec()));
        let words = words.collect::<Result<Vec<String>, _>>();
        let mut words = words.map_err(|_| Missing::unavailable("an argument is not UTF-8"))?;
        redact.argv(&mut words, &[]);
        Ok(Json::List(words.into_iter().map(Json::Text).collect()))
    }
}

/// `None`: it has ended. The memory is looked at too: it goes first, before the state says so.
fn alive(folder: &Folder, pid: u32) -> Result<Option<ProcessId>, Missing> {
    let Some(memory) = folder.small("statm")? else { return Ok(None) };
    let Some(stat) = folder.small("stat")? else { return Ok(None) };
    let broken = || Missing::unavailable(format!("the state of process {pid} cannot be parsed"));
    let stat = ProcStat::parse(&stat).ok_or_else(broken)?;
    match memory.starts_with(b"0 ") || matches!(stat.state, 'Z' | 'X') {
        false => Ok(Some(stat.id)),
        true if stat.threads > 1 => {
            let why = format!("the main thread of process {pid} has ended; its other threads cannot be read");
            Err(Missing::unavailable(why))
        }
        true => Ok(None),
    }
}

fn line(status: &str, key: &str) -> Result<String, Missing> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let none = || Missing::unavailable(format!("/proc/PID/status has no line {key}"));
    line.map(|value| value.trim().to_owned()).ok_or_else(none)
}

/// The process that started first.
pub(super) fn oldest(processes: &[Process]) -> Option<&Process> {
    processes.iter().min_by_key(|process| (process.id.start_time, process.id.pid))
}

/// Command of the oldest process, and the processors and memory that all of them may use. `cut`: why some could not be read; the
/// oldest may be among them.
pub(super) fn facts(processes: &[Process], cut: Option<&str>, redact: &Redactor) -> Vec<Fact> {
    let none = || Err(Missing::unavailable("there is no process"));
    let command = match cut {
        Some(why) => Err(Missing::unavailable(why)),
        None => oldest(processes).map_or_else(none, |process| process.command(redact)),
    };
    let source = "/proc/PID/cmdline of the oldest process: memory that it can change";
    let mut facts = vec![Fact::claimed("run/command", source, command)];
    facts.extend(placement(processes, cut));
    facts
}

/// The processors and memory that all of them may use. Reads nothing more, so it waits for no process.
pub(super) fn placement(processes: &[Process], cut: Option<&str>) -> Vec<Fact> {
    let whole = |value: Result<Json, Missing>| cut.map_or(value, |why| Err(Missing::unavailable(why)));
    let cpus: Result<BTreeSet<String>, Missing> = processes.iter().map(|one| one.cpus.clone()).collect();
    let memory: Result<BTreeSet<String>, Missing> = processes.iter().map(|one| one.memory_nodes.clone()).collect();
    let counts = cpus.clone().and_then(|lists| {
        let counted = lists.iter().map(|list| {
            let no_list = || Missing::unavailable(format!("`{}` is no list of processors", list.escape_debug()));
            cpu::count(list).map(Json::Int).ok_or_else(no_list)
        });
        counted.collect::<Result<BTreeSet<Json>, _>>().map(common)
    });
    let text =
        |lists: Result<BTreeSet<String>, Missing>| lists.map(|all| common(all.into_iter().map(Json::Text).collect()));
    vec![
        Fact::measured("run/cpu/count", "/proc/PID/status, Cpus_allowed_list", whole(counts)),
        Fact::measured("run/cpu/list", "/proc/PID/status, Cpus_allowed_list", whole(text(cpus))),
        Fact::measured("run/memory-nodes", "/proc/PID/status, Mems_allowed_list", whole(text(memory))),
    ]
}
