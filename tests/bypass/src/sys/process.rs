//! Processes: forks, clones into other cgroups, other processes' memory, and bytes that two threads race for.

use super::{answer, descriptor};
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::{AtomicU8, Ordering},
};

/// Bytes that one thread rewrites while the kernel reads them for another.
pub struct Racing(Vec<AtomicU8>);

impl Racing {
    /// Begins as `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Racing {
        Racing(bytes.iter().copied().map(AtomicU8::new).collect())
    }

    /// Turns them into `bytes`, which are as many or fewer.
    pub fn set(&self, bytes: &[u8]) {
        self.0.iter().zip(bytes).for_each(|(at, byte)| at.store(*byte, Ordering::Relaxed));
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where they are.
    pub(super) fn pointer(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
}

/// Forks; the child does `work` and ends with what it gives. The parent gets the child's number.
///
/// # Errors
/// The kernel's answer.
pub fn fork(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the programs of this crate fork while they have one thread, or the child goes straight to a system call.
    match answer(unsafe { libc::fork() }.into())? {
        0 => end(work()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

/// Forks; both go on. The parent gets the child's number.
///
/// # Errors
/// The kernel's answer.
pub fn fork_into_child() -> io::Result<Option<i32>> {
    // SAFETY: as in `fork`; the caller has one thread.
    match answer(unsafe { libc::fork() }.into())? {
        0 => Ok(None),
        pid => i32::try_from(pid).map(Some).map_err(io::Error::other),
    }
}

/// Makes a child that begins its life in the cgroup of this folder: `clone3` with `CLONE_INTO_CGROUP`.
///
/// # Errors
/// The kernel's answer.
pub fn clone_into(cgroup: impl AsFd, work: impl FnOnce() -> i32) -> io::Result<i32> {
    let cgroup = u64::try_from(cgroup.as_fd().as_raw_fd()).unwrap_or_default();
    clone(0x2_0000_0000, cgroup, work) // CLONE_INTO_CGROUP, beyond what the C type of libc's constant holds
}

/// Makes a child in a user namespace of its own, without `unshare`.
///
/// # Errors
/// The kernel's answer.
pub fn clone_user(work: impl FnOnce() -> i32) -> io::Result<i32> {
    clone(u64::try_from(libc::CLONE_NEWUSER).unwrap_or_default(), 0, work)
}

fn clone(flags: u64, cgroup: u64, work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: all zeroes is a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or_default();
    args.cgroup = cgroup;
    // SAFETY: `args` is what it says and has the length given; without a stack of its own the child goes on as after fork,
    // and this program has one thread.
    match answer(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })? {
        0 => end(work()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

/// Ends this process and runs nothing more of it.
fn end(code: i32) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// `setpriority(2)` of one process.
///
/// # Errors
/// The kernel's answer.
pub fn renice(pid: i32, nice: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    answer(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid.cast_unsigned(), nice) }.into()).map(drop)
}

/// `prlimit(2)`: 1234 open files are enough for it.
///
/// # Errors
/// The kernel's answer.
pub fn limit_files(pid: i32) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both pointers are to a limit, or null; the kernel writes one.
    answer(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) }.into())?;
    limit.rlim_cur = 1234;
    // SAFETY: as above; the kernel reads it.
    answer(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) }.into()).map(drop)
}

/// Waits for the child.
///
/// # Errors
/// The kernel's answer.
pub fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: the kernel writes one number to `status`.
    answer(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into())?;
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}

/// `execveat(2)`: `path` relative to the descriptor; an empty one is the descriptor's own file.
pub fn execute_at(fd: impl AsFd, path: &CStr, arguments: &[&CStr]) -> io::Error {
    let flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let mut list: Vec<*const libc::c_char> = arguments.iter().map(|one| one.as_ptr()).collect();
    list.push(std::ptr::null());
    let environment = [std::ptr::null::<libc::c_char>()];
    let (list, environment) = (list.as_ptr(), environment.as_ptr());
    // SAFETY: the path and both lists end with a zero, and live until the call returns, which it does only when refused.
    unsafe { libc::syscall(libc::SYS_execveat, fd.as_fd().as_raw_fd(), path.as_ptr(), list, environment, flags) };
    io::Error::last_os_error()
}

/// `execve(2)` of a path that another thread rewrites meanwhile; it ends with a zero byte that nobody rewrites.
pub fn execute_racing(path: &Racing, arguments: &[&CStr]) -> io::Error {
    let mut list: Vec<*const libc::c_char> = arguments.iter().map(|one| one.as_ptr()).collect();
    list.push(std::ptr::null());
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: the kernel reads the path up to its zero byte; that it changes meanwhile is the kernel's to bear.
    unsafe { libc::execve(path.pointer().cast(), list.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// A file in memory that holds `bytes`.
///
/// # Errors
/// The kernel's answer.
pub fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero byte.
    let fd = descriptor(unsafe { libc::memfd_create(c"bypass".as_ptr(), libc::MFD_CLOEXEC) }.into())?;
    let mut file = std::fs::File::from(fd);
    io::Write::write_all(&mut file, bytes)?;
    Ok(file.into())
}

/// `ptrace(2)` with `PTRACE_SEIZE`: the process is traced and goes on.
///
/// # Errors
/// The kernel's answer.
pub fn seize(pid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE reads no memory of ours.
    answer(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) }).map(drop)
}

/// `process_vm_writev(2)`: `bytes` to the other process's address.
///
/// # Errors
/// The kernel's answer.
pub fn write_memory(pid: i32, address: usize, bytes: &[u8]) -> io::Result<usize> {
    let from = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let to = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: bytes.len() };
    // SAFETY: the kernel reads `bytes` and writes to the other process only.
    let said = unsafe { libc::process_vm_writev(pid, &raw const from, 1, &raw const to, 1, 0) };
    usize::try_from(answer(said as libc::c_long)?).map_err(io::Error::other)
}

/// Maps memory that may be written and executed, for as long as the process lives.
///
/// # Errors
/// The kernel's answer.
pub fn map_executable() -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The same in two steps: written first, executable after.
///
/// # Errors
/// The kernel's answer.
pub fn turn_executable() -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: as in `map_executable`.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page was mapped above, has just been given to us and is referred to by nothing.
    answer(unsafe { libc::mprotect(at, 4096, libc::PROT_READ | libc::PROT_EXEC) }.into()).map(drop)
}

/// A text with the zero byte at its end.
///
/// # Errors
/// It holds one already.
pub fn c_text(text: impl AsRef<std::ffi::OsStr>) -> io::Result<CString> {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(text.as_ref()).to_vec();
    CString::new(bytes).map_err(io::Error::other)
}
