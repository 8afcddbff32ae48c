//! How the kernel schedules the calling thread: short waits that are short, and a turn on the processor soon after waking.
//!
//! Owns what came of it, by thread, for `doctor`. The threads of the freeze path share the processors with the run that they
//! stop. They get a short slice (kernel 6.12: a task with a short slice is served sooner) and more weight, but no real-time
//! priority: in a flood of events these threads are busy, and a real-time thread would starve everybody else on one core.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

/// The slice that is asked for, nanoseconds: the least that the kernel takes.
const SLICE_NS: u64 = 100_000;
/// Weight against ordinary tasks.
const NICE: i32 = -10;
/// Weight of a thread that may be late.
const BACKGROUND: i32 = 10;
/// Sleeps are late by this much at most, nanoseconds; the default is 50 us.
const TIMER_SLACK_NS: libc::c_ulong = 1_000;

/// What was granted to each thread of the freeze path.
static GRANTED: Mutex<BTreeMap<&'static str, Granted>> = Mutex::new(BTreeMap::new());

/// What the kernel granted a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granted {
    /// A short slice and more weight.
    Slice,
    /// More weight only, and why.
    Weight(String),
    /// Nothing, and why.
    Nothing(String),
}

/// Asks for the scheduling that a thread of the freeze path needs. What is refused is remembered, and the thread goes on.
pub fn freeze_path(name: &'static str) {
    fine_timers();
    let granted = match set_slice() {
        Ok(()) => Granted::Slice,
        Err(slice) => match set_nice() {
            Ok(()) => Granted::Weight(slice.to_string()),
            Err(nice) => Granted::Nothing(nice.to_string()),
        },
    };
    GRANTED.lock().unwrap_or_else(PoisonError::into_inner).insert(name, granted);
}

/// What was granted, by thread.
pub fn granted() -> BTreeMap<&'static str, Granted> {
    GRANTED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Gives way to everything else: for a thread that may be late. Threads that it starts do the same.
pub fn background() {
    // SAFETY: setpriority takes three numbers; on Linux 0 is the calling thread.
    let _stays_ordinary = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, BACKGROUND) };
}

/// Lets the calling thread's sleeps end within a microsecond of their time.
fn fine_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes a number and changes the calling thread's timers only.
    let _default_stays = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0) };
}

/// The first version of the kernel's `struct sched_attr` (sched_setattr(2)): 48 bytes.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const _: () = assert!(size_of::<SchedAttr>() == 48);

fn set_slice() -> io::Result<()> {
    // Policy 0 is SCHED_OTHER, of which kernels before 6.12 ignore the slice.
    let attr = SchedAttr { size: 48, nice: NICE, runtime: SLICE_NS, ..SchedAttr::default() };
    // JUSTIFICATION: libc has no wrapper for sched_setattr(2).
    // SAFETY: the struct is live for the call and of the size that it says; 0 is the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attr), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_nice() -> io::Result<()> {
    // SAFETY: setpriority takes three numbers; on Linux 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_is_remembered_and_a_short_sleep_is_short() {
        std::thread::spawn(|| {
            freeze_path("test");
            let best = (0..200).map(|_| {
                let began = std::time::Instant::now();
                std::thread::sleep(std::time::Duration::from_micros(20));
                began.elapsed()
            });
            // With the default slack of 50 us no sleep of 20 us ends before 70.
            assert!(best.min().unwrap() < std::time::Duration::from_micros(65));
        })
        .join()
        .unwrap();
        assert!(granted().contains_key("test"));
    }
}
