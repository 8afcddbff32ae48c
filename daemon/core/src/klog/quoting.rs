//! Kernel records that quote text which a user chose: the name of a process, or of its program.
//!
//! The kernel prints `COMM[PID]: segfault at ...`, `COMM invoked oom-killer: ...` and the like. A process may name itself
//! `nvidia-nvswitch0` and its program as a driver's message, so such a record is evidence of nothing about the hardware.
//! A name of a process has at most 15 bytes (`TASK_COMM_LEN` in the kernel's include/linux/sched.h).

/// The longest name of a process, bytes.
const COMM: usize = 15;

/// Records that begin so quote a process's name later on.
const BEGINNINGS: &[&str] = &[
    "traps: ",
    "audit: ",
    "audit(",
    "Out of memory: ",
    "Memory cgroup out of memory: ",
    "oom-kill:",
    "oom_reaper: ",
    "oom_kill_process",
    "INFO: task ",
    "watchdog: BUG: ",
    "coredump: ",
    "Core dump ",
    "Process ",
    "process ",
    "warning: process ",
    "CPU: ",
    "Tasks state",
    "Comm: ",
    "TCP: request_sock_TCP",
    "IPv6: ",
];

/// What follows the name of a process in a record that begins with it.
const AFTER_COMM: &[&str] = &[" invoked oom-killer: ", ": page allocation failure: ", ": renamed from "];

/// Whether a user may have chosen the text that the record begins with, or that decides its meaning.
pub(super) fn quotes_user_text(record: &str) -> bool {
    BEGINNINGS.iter().any(|beginning| record.starts_with(beginning)) || begins_with_a_process(record)
}

/// Whether the record begins with `COMM[PID]`, `COMM (PID): ` or `COMM` and a text of [`AFTER_COMM`].
fn begins_with_a_process(record: &str) -> bool {
    let ends = record.char_indices().map(|(at, _)| at).take_while(|at| *at <= COMM);
    ends.map(|at| &record[at..]).any(|rest| {
        AFTER_COMM.iter().any(|after| rest.starts_with(after))
            || number_between(rest, "[", "]").is_some_and(|rest| rest.starts_with([':', ' ']) || rest.is_empty())
            || number_between(rest, " (", ")").is_some_and(|rest| rest.starts_with([':', ' ']))
    })
}

/// What follows `OPEN digits CLOSE` at the beginning of the text.
fn number_between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(open)?;
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    (after.len() < rest.len()).then_some(after)?.strip_prefix(close)
}
