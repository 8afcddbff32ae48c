//! The system calls that a policy can watch, each with arguments that make the kernel refuse it (or do nothing) after it
//! was entered: enough for a watcher to see it, nothing for the host to suffer.

use std::io;

/// A system call with harmless arguments.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its name, as policies write it.
    pub name: &'static str,
    number: libc::c_long,
    arguments: [libc::c_long; 4],
}

const fn call(name: &'static str, number: libc::c_long, arguments: [libc::c_long; 4]) -> Call {
    Call { name, number, arguments }
}

/// No flag has this bit in any of these calls.
const BAD_FLAG: libc::c_long = 0x0800_0000;

/// Every watched call, and `getppid`, which nobody watches.
pub const CALLS: [Call; 15] = [
    call("getppid", libc::SYS_getppid, [0; 4]),
    // PTRACE_CONT of pid -1: ESRCH.
    call("ptrace", libc::SYS_ptrace, [7, -1, 0, 0]),
    // Every pointer is bad: EFAULT, or EPERM.
    call("mount", libc::SYS_mount, [1, 1, 1, 0]),
    // Nothing is unshared: succeeds.
    call("unshare", libc::SYS_unshare, [0; 4]),
    call("setns", libc::SYS_setns, [-1, 0, 0, 0]),
    // No such command: EINVAL.
    call("bpf", libc::SYS_bpf, [0xffff, 0, 0, 0]),
    // An empty image: ENOEXEC, or EPERM.
    call("init_module", libc::SYS_init_module, [0, 0, 0, 0]),
    call("finit_module", libc::SYS_finit_module, [-1, 0, BAD_FLAG, 0]),
    // Flags that are checked before anything is loaded or unloaded: EINVAL, or EPERM.
    call("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0x8000]),
    call("io_uring_setup", libc::SYS_io_uring_setup, [1, 1, 0, 0]),
    call("memfd_create", libc::SYS_memfd_create, [1, BAD_FLAG, 0, 0]),
    // No vector at all, to pid -1: EINVAL or ESRCH, or 0 bytes written.
    call("process_vm_writev", libc::SYS_process_vm_writev, [-1, 0, 0, 0]),
    call("userfaultfd", libc::SYS_userfaultfd, [BAD_FLAG, 0, 0, 0]),
    // No such operation: EOPNOTSUPP.
    call("keyctl", libc::SYS_keyctl, [0xffff, 0, 0, 0]),
    // Both magic numbers are wrong: EINVAL, or EPERM.
    call("reboot", libc::SYS_reboot, [0; 4]),
];

impl Call {
    /// The call of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Call> {
        CALLS.into_iter().find(|call| call.name == name)
    }

    /// Makes the call.
    ///
    /// # Errors
    /// What the kernel answered; for most calls of the list that is the point.
    #[inline]
    pub fn make(self) -> io::Result<libc::c_long> {
        let [a, b, c, d] = self.arguments;
        // SAFETY: the arguments come from the table above: no pointer in them is valid, so the kernel can neither read
        // nor write this process's memory, and no flag or command in them asks for anything to be changed.
        let answer = unsafe { libc::syscall(self.number, a, b, c, d, 0, 0) };
        if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(answer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_reaches_the_kernel_and_changes_nothing() {
        for call in CALLS {
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            let answer = call.make();
            assert_eq!(open(), before, "{} left a file open", call.name);
            let harmless = matches!(call.name, "getppid" | "unshare" | "process_vm_writev");
            assert!(answer.is_err() || harmless, "{} was carried out: {answer:?}", call.name);
        }
        assert!(Call::named("getppid").is_some() && Call::named("nothing").is_none());
    }
}
