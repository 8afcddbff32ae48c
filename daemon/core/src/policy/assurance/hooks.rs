//! Which hooks of the kernel refuse what, and what sees it where they are missing.
//!
//! The table mirrors what the programs in `ebpf/src` do; a hook that they do not use refuses nothing, whatever the kernel has.

use super::Grants;
use crate::{
    event::{EventKind, Field},
    policy::{EventMatch, FieldMatch, Pattern},
};

/// A hook, by the name that a node grants it under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Lsm(&'static str),
    Cgroup(&'static str),
}

/// What tells of it where no refusing hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// A tracepoint of process life, which every kernel grants.
    Life,
    /// The entry of every system call.
    SysEnter,
    /// fentry on the call, or else the entry of every system call.
    Call,
    /// A tracepoint of sockets that begin to listen.
    Listen,
    /// A tracepoint of what an exec is about to give, or fentry on the change of credentials.
    Gain,
    /// That, and for calls the entry of every system call.
    Setuid,
    /// Only the hooks that refuse it.
    Hooks,
}

/// One thing that a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    /// What, as a person reads it.
    pub what: String,
    /// The hooks that together refuse it; empty: none does.
    pub hooks: Vec<Hook>,
    /// What sees it besides.
    pub sight: Sight,
}

/// Hooks of the egress allow-list: every way out.
pub(super) const EGRESS: [Hook; 6] = [
    Hook::Cgroup("connect4"),
    Hook::Cgroup("connect6"),
    Hook::Cgroup("sendmsg4"),
    Hook::Cgroup("sendmsg6"),
    Hook::Cgroup("sock_create"),
    Hook::Cgroup("skb_egress"),
];
/// What a latched run is refused beside egress.
pub(super) const LATCH: [Hook; 2] = [EXEC, FILE_OPEN];
/// Execution.
pub(super) const EXEC: Hook = Hook::Lsm("bprm_check_security");
const FILE_OPEN: Hook = Hook::Lsm("file_open");
/// Making a process.
pub(super) const FORK: Hook = Hook::Lsm("task_alloc");

/// The LSM hooks in which a watched call is refused, by name; empty for what is no such call.
pub fn refusing_hooks(call: &str) -> &'static [&'static str] {
    match call {
        "ptrace" => &["ptrace_access_check", "ptrace_traceme"],
        "process_vm_readv" | "process_vm_writev" | "pidfd_getfd" => &["ptrace_access_check"],
        "mount" => &["sb_mount"],
        "umount2" => &["sb_umount"],
        "pivot_root" => &["sb_pivotroot"],
        "move_mount" => &["move_mount"],
        "chroot" => &["path_chroot"],
        "keyctl" => &["key_permission"],
        "add_key" => &["key_alloc"],
        "request_key" => &["key_permission", "key_alloc"],
        "settimeofday" | "clock_settime" => &["settime"],
        "perf_event_open" => &["perf_event_open"],
        "bpf" => &["bpf"],
        "init_module" | "kexec_load" => &["kernel_load_data"],
        "finit_module" | "kexec_file_load" => &["kernel_read_file"],
        // Who may not use a ring makes none.
        "io_uring_setup" | "io_uring_enter" | "io_uring_register" | "userfaultfd" => &["inode_init_security_anon"],
        "quotactl" => &["quotactl"],
        "memfd_create" => &["file_alloc_security"],
        "unshare" => &["capable", "userns_create"],
        "setns" | "reboot" | "delete_module" | "fsopen" | "fspick" | "open_tree" | "open_tree_attr"
        | "mount_setattr" | "clock_adjtime" | "adjtimex" | "iopl" | "ioperm" | "open_by_handle_at" | "swapon"
        | "acct" => &["capable"],
        _ => &[],
    }
}

/// What a rule on an event needs of the kernel.
pub(super) fn needs(event: &EventMatch, grants: &Grants) -> Vec<Need> {
    let need = |what: &str, hooks: &[Hook], sight| Need { what: what.to_owned(), hooks: hooks.to_vec(), sight };
    let wants = |field: Field, name: &str| {
        event.given(field).is_none_or(|any_of| any_of.iter().any(|p| matches!(p, Pattern::Exact(text) if text == name)))
    };
    match event.kind {
        EventKind::Exec => vec![need("exec", &[EXEC], Sight::Life)],
        EventKind::Fork => vec![need("fork", &[FORK], Sight::Life)],
        EventKind::Exit | EventKind::Oom | EventKind::Leave => vec![need(event.kind.name(), &[], Sight::Life)],
        // Where LSM is missing, devices are refused by their numbers.
        EventKind::Open if !grants.has(FILE_OPEN) && only_devices(event) => {
            vec![need("open of a device", &[Hook::Cgroup("dev")], Sight::SysEnter)]
        }
        EventKind::Open if !event.fields.iter().all(tabled) => {
            vec![need("open of paths by their end or middle", &[], Sight::Hooks)]
        }
        EventKind::Open => vec![need("open", &[FILE_OPEN], Sight::SysEnter)],
        EventKind::Connect | EventKind::Send | EventKind::Budget => vec![need("egress", &EGRESS, Sight::Hooks)],
        EventKind::Bind => vec![need("bind", &[Hook::Cgroup("bind4"), Hook::Cgroup("bind6")], Sight::Hooks)],
        EventKind::Listen => vec![need("listen", &[Hook::Lsm("socket_listen")], Sight::Listen)],
        // The cgroup's hook tells of those kinds only that an allow-list cannot bound.
        EventKind::Socket => vec![need("socket", &[Hook::Lsm("socket_create")], Sight::SysEnter)],
        EventKind::Syscall => {
            let named = event.given(Field::Name).into_iter().flatten();
            let calls = named.filter_map(|pattern| if let Pattern::Exact(call) = pattern { Some(call) } else { None });
            let hooks = |call: &str| refusing_hooks(call).iter().map(|hook| Hook::Lsm(hook)).collect::<Vec<_>>();
            calls.map(|call| need(call, &hooks(call), Sight::Call)).collect()
        }
        EventKind::Privilege => {
            let setuid = [Hook::Lsm("task_fix_setuid"), Hook::Lsm("bprm_creds_from_file")];
            let ways = [
                ("setuid", &setuid[..], Sight::Setuid),
                ("capability", &setuid[1..], Sight::Gain),
                ("userns", &[Hook::Lsm("userns_create")][..], Sight::SysEnter),
            ];
            let wanted = ways.into_iter().filter(|(gain, ..)| wants(Field::Gain, gain));
            wanted.map(|(gain, hooks, sight)| need(gain, hooks, sight)).collect()
        }
        EventKind::ExecMemory => {
            let hooks = [Hook::Lsm("mmap_file"), Hook::Lsm("file_mprotect")];
            let ways = [("anonymous", Sight::SysEnter), ("memfd", Sight::Hooks), ("write-exec", Sight::SysEnter)];
            let wanted = ways.into_iter().filter(|(kind, _)| wants(Field::Kind, kind));
            wanted.map(|(kind, sight)| need(&format!("{kind} memory"), &hooks, sight)).collect()
        }
        EventKind::Protect => {
            let hooks = ["ptrace_access_check", "task_kill", "bpf", "inode_unlink", "inode_rename", "file_receive"];
            vec![need("protect", &hooks.map(Hook::Lsm), Sight::Hooks)]
        }
        EventKind::Dns => vec![need("dns", &[Hook::Cgroup("skb_ingress")], Sight::Hooks)],
        EventKind::ForeignThaw
        | EventKind::Latched
        | EventKind::Drift
        | EventKind::ForeignGpuProcess
        | EventKind::Xid
        | EventKind::GpuEvent => Vec::new(),
    }
}

/// Folders below /dev that hold device nodes only.
const DEVICE_FOLDERS: [&str; 6] = ["dri", "infiniband", "input", "net", "nvidia-caps", "vfio"];
/// Entries of /dev that are no device nodes.
const NO_DEVICES: [&str; 7] = ["core", "fd", "log", "shm", "stderr", "stdin", "stdout"];

/// Whether every path is a device's, or the beginning of those of devices only: they are turned into device numbers when a
/// run starts.
fn only_devices(event: &EventMatch) -> bool {
    let Some(paths) = event.given(Field::Path) else { return false };
    paths.iter().all(|pattern| {
        let (path, whole) = match pattern {
            Pattern::Exact(path) => (path, true),
            Pattern::Prefix(path) => (path, false),
            _ => return false,
        };
        match path.strip_prefix("/dev/").map(|rest| rest.split_once('/').ok_or(rest)) {
            Some(Ok((folder, name))) => DEVICE_FOLDERS.contains(&folder) && !name.contains('/'),
            Some(Err(name)) if whole => !NO_DEVICES.contains(&name),
            Some(Err(name)) => !NO_DEVICES.iter().any(|other| other.starts_with(name)),
            None => false,
        }
    })
}

/// Whether the kernel's table of paths holds a field: opens are too many to be told of unless an entry names them.
fn tabled(field: &FieldMatch) -> bool {
    let held = |pattern: &Pattern| matches!(pattern, Pattern::Exact(_) | Pattern::Prefix(_));
    field.field != Field::Path || field.any_of.iter().all(held)
}
