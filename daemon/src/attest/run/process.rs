//! The processes of a run: their commands, programs and processors.

use super::common;
use crate::{
    attest::{cpu, files},
    platform::{ProcFs, ProcessId},
    redact::Redactor,
};
use failsafe_attest::{Fact, Json, Missing};
use std::collections::BTreeSet;

/// Bytes of a command line that are read.
const COMMAND: u64 = 64 << 10;

/// A process that had memory when it was looked at.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub id: ProcessId,
    /// `/proc/PID/status`.
    status: Result<String, Missing>,
    command: Result<Vec<String>, Missing>,
}

impl Process {
    /// `None`: it is gone, or a zombie, which has no memory left.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(super) fn read(proc: &ProcFs, pid: u32) -> Result<Option<Process>, Missing> {
        let stat = proc.stat(pid).map_err(|error| files::missing(&error.path, &error.source))?;
        let Some(stat) = stat.filter(|stat| !matches!(stat.state, 'Z' | 'X')) else { return Ok(None) };
        let status = files::bytes(&proc.path(pid, "status")).and_then(|bytes| {
            let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            text.ok_or_else(|| Missing::unavailable("the process ended while it was read"))
        });
        let command = match proc.cmdline(pid, COMMAND) {
            Ok(Some(words)) if words.iter().map(|word| word.len() + 1).sum::<usize>() as u64 >= COMMAND => {
                Err(Missing::unavailable(format!("the command line has {COMMAND} bytes or more, the limit")))
            }
            // It is just being executed, or has erased them.
            Ok(Some(words)) if words.is_empty() => Err(Missing::unavailable("the process has no arguments")),
            Ok(Some(words)) => Ok(words),
            Ok(None) => Err(Missing::unavailable("the process ended while it was read")),
            Err(error) => Err(files::missing(&error.path, &error.source)),
        };
        Ok(Some(Process { id: stat.id, status, command }))
    }

    fn line(&self, key: &str) -> Result<String, Missing> {
        let status = self.status.as_ref().map_err(Clone::clone)?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let none = || Missing::unavailable(format!("/proc/PID/status has no line {key}"));
        line.map(|value| value.trim().to_owned()).ok_or_else(none)
    }
}

/// Command of the oldest process, and the processors and memory that all of them may use.
pub(super) fn facts(processes: &[Process], redact: &Redactor) -> Vec<Fact> {
    let oldest = processes.iter().min_by_key(|process| (process.id.start_time, process.id.pid));
    let none = || Err(Missing::unavailable("there is no process"));
    let command = oldest.map_or_else(none, |process| process.command.clone().map(|words| command(words, redact)));
    let lists =
        |key: &str| -> Result<BTreeSet<String>, Missing> { processes.iter().map(|one| one.line(key)).collect() };
    let cpus = lists("Cpus_allowed_list");
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
        Fact::measured("run/command", "/proc/PID/cmdline of the oldest process", command),
        Fact::measured("run/cpu/count", "/proc/PID/status, Cpus_allowed_list", counts),
        Fact::measured("run/cpu/list", "/proc/PID/status, Cpus_allowed_list", text(cpus)),
        Fact::measured("run/memory-nodes", "/proc/PID/status, Mems_allowed_list", text(lists("Mems_allowed_list"))),
    ]
}

fn command(mut words: Vec<String>, redact: &Redactor) -> Json {
    redact.argv(&mut words, &[]);
    Json::List(words.into_iter().map(Json::Text).collect())
}
