//! Threads that can hang in the kernel without keeping what the next daemon needs.
//!
//! A thread that waits for a file system of a user survives SIGKILL of the process until that file system answers, and it keeps
//! the table of descriptors open that it shares with the other threads: the lock of the state folder, the sockets, the links of
//! the eBPF programs. A thread of this module has a table of its own, with standard input, output and error only.
//!
//! Invariant: no descriptor goes in or out. A number means another file there, and closing it in one table leaves it open in the
//! other. `work` opens what it reads, and gives back plain data. It uses channels and locks of `std` only: to wake a task, tokio writes
//! to a descriptor.

use std::io;
use std::sync::mpsc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};

/// The first descriptor that is closed.
const FIRST: libc::c_uint = 3;

/// Starts a thread with no descriptor of the process. Returns when it has left the process's table; `work` follows.
///
/// # Errors
/// No room for a thread, or the kernel refuses a table of its own: then `work` is not begun.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (left, wait) = mpsc::sync_channel(1);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let own = leave();
        let alone = own.is_ok();
        let _starter_waits = left.send(own);
        if alone {
            work();
        }
    })?;
    wait.recv().map_err(|_| io::Error::other("the thread ended at once"))?
}

/// Leaves the process's table of descriptors.
fn leave() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FILES)?;
    // SAFETY: close_range takes numbers. The table belongs to this thread alone, and nothing in it has an owner here.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    match Errno::result(closed) {
        Ok(_) => Ok(()),
        // A filter of system calls that is older than the call.
        Err(Errno::EPERM | Errno::ENOSYS) => close_each(),
        Err(error) => Err(error.into()),
    }
}

/// The same as `close_range`, one by one.
fn close_each() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    for fd in FIRST..libc::c_uint::try_from(soft.max(hard)).unwrap_or(libc::c_uint::MAX).min(1 << 20) {
        // SAFETY: as above; a number that is not open is an error without effect.
        unsafe { libc::close(fd.cast_signed()) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What is open in the calling thread, without the folder that is read for it.
    fn open() -> BTreeSet<u32> {
        let names = std::fs::read_dir("/proc/thread-self/fd").unwrap().map(|entry| entry.unwrap().file_name());
        let numbers: Vec<u32> = names.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
        let there = |fd: &u32| std::fs::read_link(format!("/proc/thread-self/fd/{fd}")).is_ok();
        numbers.into_iter().filter(there).collect()
    }

    #[test]
    fn a_thread_apart_has_no_descriptor_of_the_process_and_closes_none_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("held")).unwrap();
        let (give, get) = mpsc::channel();
        spawn("apart", move || give.send(open()).unwrap()).unwrap();
        assert!(get.recv().unwrap().iter().all(|fd| *fd < FIRST));
        file.sync_all().unwrap();
    }

    #[test]
    fn descriptors_are_closed_one_by_one_where_the_kernel_refuses_a_range() {
        let (give, get) = mpsc::channel();
        let file = tempfile::tempfile().unwrap();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            close_each().unwrap();
            give.send(open()).unwrap();
        });
        assert!(get.recv().unwrap().iter().all(|fd| *fd < FIRST));
        file.sync_all().unwrap();
    }

    #[test]
    fn a_lock_that_the_process_gives_up_is_free_while_the_thread_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = std::fs::File::create(&path).unwrap();
        lock.try_lock().unwrap();
        let (hang, never) = mpsc::channel::<()>();
        spawn("apart", move || {
            let _ended = never.recv();
        })
        .unwrap();
        assert!(std::fs::File::open(&path).unwrap().try_lock().is_err(), "it is held by the process still");
        drop(lock);
        std::fs::File::open(&path).unwrap().try_lock().unwrap();
        drop(hang);
    }
}
