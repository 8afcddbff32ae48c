//! What of the object this kernel takes: the list of programs, and what became of each.
//!
//! Probing decides, not the kernel's version: every program is loaded by itself, and one that is refused is a line in
//! the report (`failsafectl doctor`, `Gap`), not a failure to start.

use std::time::Duration;

use failsafe_ebpf::abi;

/// What a program is for, which decides how it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Process life: one attachment for the host, pinned.
    Life,
    /// Refuses what rules forbid, at LSM hooks: one attachment for the host, pinned.
    Lsm,
    /// Sees what rules speak of where no LSM program does: attached to the host while a rule needs it, and pinned.
    Sight,
    /// Stops the caller where a program on its cgroup has latched the run: as above.
    Stop,
    /// As those of LSM, at hooks that others come by often: attached while a rule needs them, and pinned.
    LsmOnNeed,
    /// Refuses devices: attached to the cgroup of each run with rules on them, pinned.
    Device,
    /// Refuses egress: attached to each run's cgroup, pinned.
    Guard,
    /// Counts, or helps a guard: attached to each run's cgroup, pinned.
    Meter,
    /// Binds cgroups of discovery when they are made, and judges them until they are registered: loaded where there are rules of
    /// discovery, attached to their root and the host, pinned.
    Early,
    /// Watched system calls: attached on request, and pinned.
    Syscall,
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramState {
    /// In the kernel.
    Loaded,
    /// The kernel said no; the detail is its reason.
    Refused,
    /// Not asked for yet, or replaced by another that does the same.
    Unused,
}

/// One line of the probe's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStatus {
    /// Name of the program in the object.
    pub name: &'static str,
    /// Where it attaches.
    pub hook: &'static str,
    /// What it is for.
    pub group: Group,
    /// What became of it.
    pub state: ProgramState,
    /// The kernel's reason, or a remark; empty if there is nothing to say.
    pub detail: String,
    /// Instructions that the verifier walked; `None` where the program is not loaded, or the kernel (before 5.16) does
    /// not say.
    pub verified_insns: Option<u32>,
    /// How long the kernel took over it: verifying, compiling and, for process life, attaching.
    pub load_time: Duration,
}

pub(super) struct Spec {
    pub name: &'static str,
    pub hook: &'static str,
    pub group: Group,
    /// Only loaded when the kernel took none of these.
    pub instead_of: &'static [&'static str],
}

const fn spec(name: &'static str, hook: &'static str, group: Group) -> Spec {
    Spec { name, hook, group, instead_of: &[] }
}

/// The programs with a fixed hook, in the order in which they are loaded and attached.
pub(super) const PROGRAMS: &[Spec] = &[
    spec("fs_exec", "tp_btf/sched_process_exec", Group::Life),
    spec("fs_fork", "tp_btf/sched_process_fork", Group::Life),
    spec("fs_exit", "tp_btf/sched_process_exit", Group::Life),
    spec("fs_move", "tp_btf/cgroup_attach_task", Group::Life),
    spec("fs_oom", "tp_btf/mark_victim", Group::Life),
    Spec { instead_of: &["fs_oom"], ..spec("fs_oom_pid", "tp_btf/mark_victim", Group::Life) },
    // Replies must be known for what they are before packets are judged.
    spec("fs_sock_ops", "sockops", Group::Meter),
    spec("fs_connect4", "cgroup/connect4", Group::Guard),
    spec("fs_connect6", "cgroup/connect6", Group::Guard),
    spec("fs_sendmsg4", "cgroup/sendmsg4", Group::Guard),
    spec("fs_sendmsg6", "cgroup/sendmsg6", Group::Guard),
    spec("fs_sock_create", "cgroup/sock_create", Group::Guard),
    spec("fs_egress", "cgroup_skb/egress", Group::Guard),
    spec("fs_ingress", "cgroup_skb/ingress", Group::Meter),
    spec("fs_bind4", "cgroup/bind4", Group::Meter),
    spec("fs_bind6", "cgroup/bind6", Group::Meter),
    spec("fs_device", "cgroup/dev", Group::Device),
    spec("fs_early_sock_ops", "sockops", Group::Early),
    spec("fs_early_connect4", "cgroup/connect4", Group::Early),
    spec("fs_early_connect6", "cgroup/connect6", Group::Early),
    spec("fs_early_sendmsg4", "cgroup/sendmsg4", Group::Early),
    spec("fs_early_sendmsg6", "cgroup/sendmsg6", Group::Early),
    spec("fs_early_sock_create", "cgroup/sock_create", Group::Early),
    spec("fs_early_egress", "cgroup_skb/egress", Group::Early),
    spec("fs_early_ingress", "cgroup_skb/ingress", Group::Early),
    spec("fs_early_bind4", "cgroup/bind4", Group::Early),
    spec("fs_early_bind6", "cgroup/bind6", Group::Early),
    spec("fs_early_made", "tp_btf/cgroup_mkdir", Group::Early),
    spec("fs_lsm_bprm_check_security", "lsm/bprm_check_security", Group::Lsm),
    spec("fs_lsm_file_open", "lsm/file_open", Group::Lsm),
    spec("fs_lsm_path_truncate", "lsm/path_truncate", Group::Lsm),
    spec("fs_lsm_inode_link", "lsm/inode_link", Group::Lsm),
    spec("fs_lsm_mmap_file", "lsm/mmap_file", Group::Lsm),
    spec("fs_lsm_file_mprotect", "lsm/file_mprotect", Group::Lsm),
    spec("fs_lsm_ptrace_access_check", "lsm/ptrace_access_check", Group::Lsm),
    spec("fs_lsm_ptrace_traceme", "lsm/ptrace_traceme", Group::Lsm),
    spec("fs_lsm_bpf", "lsm/bpf", Group::Lsm),
    spec("fs_lsm_task_kill", "lsm/task_kill", Group::Lsm),
    spec("fs_lsm_task_setrlimit", "lsm/task_setrlimit", Group::Lsm),
    spec("fs_lsm_task_setnice", "lsm/task_setnice", Group::Lsm),
    spec("fs_lsm_task_setioprio", "lsm/task_setioprio", Group::Lsm),
    spec("fs_lsm_task_setscheduler", "lsm/task_setscheduler", Group::Lsm),
    spec("fs_lsm_inode_unlink", "lsm/inode_unlink", Group::Lsm),
    spec("fs_lsm_inode_rmdir", "lsm/inode_rmdir", Group::Lsm),
    spec("fs_lsm_inode_rename", "lsm/inode_rename", Group::Lsm),
    spec("fs_lsm_path_mknod", "lsm/path_mknod", Group::Lsm),
    spec("fs_lsm_path_mkdir", "lsm/path_mkdir", Group::Lsm),
    spec("fs_lsm_path_symlink", "lsm/path_symlink", Group::Lsm),
    spec("fs_lsm_path_chmod", "lsm/path_chmod", Group::Lsm),
    spec("fs_lsm_path_chown", "lsm/path_chown", Group::Lsm),
    spec("fs_lsm_kernel_load_data", "lsm/kernel_load_data", Group::Lsm),
    spec("fs_lsm_kernel_read_file", "lsm/kernel_read_file", Group::Lsm),
    spec("fs_lsm_inode_init_security_anon", "lsm/inode_init_security_anon", Group::Lsm),
    spec("fs_lsm_bprm_creds_from_file", "lsm/bprm_creds_from_file", Group::Lsm),
    spec("fs_lsm_task_fix_setuid", "lsm/task_fix_setuid", Group::Lsm),
    spec("fs_lsm_userns_create", "lsm/userns_create", Group::Lsm),
    spec("fs_lsm_task_alloc", "lsm/task_alloc", Group::Lsm),
    spec("fs_lsm_socket_create", "lsm/socket_create", Group::Lsm),
    spec("fs_lsm_socket_listen", "lsm/socket_listen", Group::Lsm),
    spec("fs_lsm_socket_connect", "lsm/socket_connect", Group::Lsm),
    spec("fs_lsm_file_receive", "lsm/file_receive", Group::Lsm),
    spec("fs_lsm_sb_mount", "lsm/sb_mount", Group::Lsm),
    spec("fs_lsm_sb_umount", "lsm/sb_umount", Group::Lsm),
    spec("fs_lsm_sb_pivotroot", "lsm/sb_pivotroot", Group::Lsm),
    spec("fs_lsm_move_mount", "lsm/move_mount", Group::Lsm),
    spec("fs_lsm_path_chroot", "lsm/path_chroot", Group::Lsm),
    spec("fs_lsm_key_permission", "lsm/key_permission", Group::Lsm),
    spec("fs_lsm_key_alloc", "lsm/key_alloc", Group::Lsm),
    spec("fs_lsm_settime", "lsm/settime", Group::Lsm),
    spec("fs_lsm_perf_event_open", "lsm/perf_event_open", Group::Lsm),
    spec("fs_lsm_quotactl", "lsm/quotactl", Group::Lsm),
    spec("fs_lsm_capable", "lsm/capable", Group::LsmOnNeed),
    spec("fs_lsm_file_alloc_security", "lsm/file_alloc_security", Group::LsmOnNeed),
    Spec { instead_of: &["fs_lsm_socket_listen"], ..spec(LISTEN, "tp_btf/inet_sock_set_state", Group::Sight) },
    Spec { instead_of: &["fs_lsm_file_open"], ..spec(RING, "tp_btf/io_uring_submit_req", Group::Sight) },
    Spec { instead_of: &["fs_lsm_file_open", RING], ..spec(RING_SQE, "tp_btf/io_uring_submit_sqe", Group::Sight) },
    Spec { instead_of: &[LSM_GAIN], ..spec(GAIN_EXEC, "tp_btf/sched_prepare_exec", Group::Sight) },
    Spec { instead_of: &[LSM_GAIN, GAIN_EXEC], ..spec(GAIN_CREDS, "fentry/commit_creds", Group::Sight) },
    spec(STOP_ADDRESS, "fexit/__cgroup_bpf_run_filter_sock_addr", Group::Stop),
    spec(STOP_DEVICE, "fexit/__cgroup_bpf_check_dev_permission", Group::Stop),
    spec(SYS_ENTER, "tp_btf/sys_enter", Group::Syscall),
    spec(FENTRY_PROBE, "fentry", Group::Syscall),
];

/// Behind the programs that judge connects, sends and binds.
pub(super) const STOP_ADDRESS: &str = "fs_stop_address";
/// Behind the one that judges devices.
pub(super) const STOP_DEVICE: &str = "fs_stop_device";
/// The fallback for `lsm/socket_listen`.
pub(super) const LISTEN: &str = "fs_listen";
/// What io_uring opens and makes, for which the entry of calls is no fallback.
pub(super) const RING: &str = "fs_ring";
/// The same before 6.3.
pub(super) const RING_SQE: &str = "fs_ring_sqe";
const LSM_GAIN: &str = "fs_lsm_bprm_creds_from_file";
/// The fallback for `lsm/bprm_creds_from_file`.
pub(super) const GAIN_EXEC: &str = "fs_gain_exec";
/// The fallback for that.
pub(super) const GAIN_CREDS: &str = "fs_gain_creds";
/// The fallback for watched system calls.
pub(super) const SYS_ENTER: &str = "fs_sys_enter";
/// The fentry program that is tried at load: its call is the rarest of all.
pub(super) const FENTRY_PROBE: &str = "fs_sys_reboot";

/// Program in the object, and the kernel functions it may go to (the first that exists), for one ABI of a call.
pub(super) struct FentryTarget {
    pub program: String,
    pub functions: Vec<String>,
}

/// Kernel functions of calls that have more than one, or whose function is called otherwise.
const FUNCTIONS: [(&str, &[&str]); 6] = [
    ("umount2", &["umount", "oldumount"]),
    ("settimeofday", &["settimeofday", "stime32"]),
    ("clock_settime", &["clock_settime", "clock_settime32"]),
    ("clock_adjtime", &["clock_adjtime", "clock_adjtime32"]),
    ("adjtimex", &["adjtimex", "adjtimex_time32"]),
    ("quotactl", &["quotactl", "quotactl_fd"]),
];

/// The fentry programs that cover a watched call: one for each ABI of each of its functions.
pub(super) fn fentry_targets(call: usize) -> Vec<FentryTarget> {
    let Some(name) = abi::SYSCALLS.get(call) else {
        return Vec::new();
    };
    let (native, compat): (&str, &[&str]) = if cfg!(target_arch = "aarch64") {
        // Calls without a compat entry of their own share the native one there.
        ("__arm64_sys_", &["__arm64_compat_sys_"])
    } else {
        ("__x64_sys_", &["__ia32_compat_sys_", "__ia32_sys_"])
    };
    let functions = FUNCTIONS.iter().find(|(call, _)| call == name).map_or(std::slice::from_ref(name), |(_, all)| all);
    let both = functions.iter().flat_map(|function| {
        [
            FentryTarget { program: format!("fs_sys_{function}"), functions: vec![format!("{native}{function}")] },
            FentryTarget {
                program: format!("fs_csys_{function}"),
                functions: compat.iter().map(|p| format!("{p}{function}")).collect(),
            },
        ]
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A program that no list names is never loaded, and what it should refuse is let through.
    #[test]
    fn every_program_of_the_object_is_in_a_list_and_every_name_in_a_list_is_a_program() {
        let object = aya_obj::Object::parse(failsafe_ebpf::OBJECT).unwrap();
        let programs: BTreeSet<String> = object.programs.into_keys().collect();
        let fentry = (0..abi::SYSCALLS.len()).flat_map(fentry_targets).map(|target| target.program);
        let listed: BTreeSet<String> = PROGRAMS.iter().map(|spec| spec.name.to_owned()).chain(fentry).collect();
        let never: Vec<_> = programs.difference(&listed).collect();
        assert!(never.is_empty(), "add these programs to PROGRAMS, or they are never loaded: {never:?}");
        let unknown: Vec<_> = listed.difference(&programs).collect();
        assert!(unknown.is_empty(), "the object has no such programs: {unknown:?}");
        let instead = PROGRAMS.iter().flat_map(|spec| spec.instead_of);
        let strangers: Vec<_> = instead.filter(|name| !listed.contains(**name)).collect();
        assert!(strangers.is_empty(), "no program of these names can be replaced: {strangers:?}");
    }
}
