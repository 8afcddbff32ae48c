//! The system calls that a policy may watch, and groups of them by name.

/// System calls that a policy may watch. The position is the bit in the kernel's mask: names are only added at the end.
pub const WATCHABLE: [&str; 42] = [
    "ptrace",
    "mount",
    "unshare",
    "setns",
    "bpf",
    "init_module",
    "finit_module",
    "kexec_load",
    "io_uring_setup",
    "memfd_create",
    "process_vm_writev",
    "userfaultfd",
    "keyctl",
    "reboot",
    "kexec_file_load",
    "move_mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "open_tree",
    "mount_setattr",
    "delete_module",
    "add_key",
    "request_key",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "io_uring_enter",
    "io_uring_register",
    "iopl",
    "ioperm",
    "process_vm_readv",
    "pidfd_getfd",
    "perf_event_open",
    "open_by_handle_at",
    "chroot",
    "swapon",
    "acct",
    "quotactl",
    "fspick",
    "open_tree_attr",
];

/// Groups, accepted wherever a call's name is. They are expanded when a policy is read: its digest is over the calls.
pub const GROUPS: [(&str, &[&str]); 10] = [
    ("@module", &["init_module", "finit_module", "delete_module"]),
    (
        "@mount",
        &[
            "mount",
            "umount2",
            "move_mount",
            "pivot_root",
            "fsopen",
            "fspick",
            "open_tree",
            "open_tree_attr",
            "mount_setattr",
            "chroot",
        ],
    ),
    ("@namespace", &["unshare", "setns"]),
    ("@ptrace", &["ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"]),
    ("@bpf", &["bpf", "perf_event_open"]),
    ("@keyring", &["add_key", "request_key", "keyctl"]),
    ("@reboot", &["reboot", "kexec_load", "kexec_file_load"]),
    ("@clock", &["settimeofday", "clock_settime", "clock_adjtime", "adjtimex"]),
    ("@io_uring", &["io_uring_setup", "io_uring_enter", "io_uring_register"]),
    ("@raw-io", &["iopl", "ioperm"]),
];

/// The calls that a name stands for: itself, or its group's.
pub fn expand(name: &str) -> Option<&'static [&'static str]> {
    if let Some((_, calls)) = GROUPS.iter().find(|(group, _)| *group == name) {
        return Some(calls);
    }
    WATCHABLE.iter().position(|call| *call == name).map(|at| &WATCHABLE[at..=at])
}

/// Every name that a policy may write.
pub fn names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().map(|(group, _)| *group).chain(WATCHABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_only_calls_that_can_be_watched() {
        for (group, calls) in GROUPS {
            assert!(!calls.is_empty() && expand(group) == Some(calls), "{group}");
            for call in calls {
                assert!(WATCHABLE.contains(call), "{group}: {call}");
            }
        }
        assert_eq!(expand("ptrace"), Some(&["ptrace"][..]));
        assert_eq!(expand("read"), None);
    }

    #[test]
    fn no_name_is_there_twice() {
        let mut all: Vec<&str> = names().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn every_group_and_call_is_in_the_reference() {
        let reference = include_str!("../../../../docs/policy.md");
        for name in names() {
            assert!(reference.contains(&format!("`{name}`")), "{name}");
        }
    }
}
