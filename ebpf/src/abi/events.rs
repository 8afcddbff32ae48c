//! Records of the ring: one for each kind of event.

use super::{plain::plain, *};

plain! {
    /// `struct fs_hdr`.
    Hdr = "fs_hdr" {
        /// `CLOCK_MONOTONIC`, nanoseconds.
        ktime_ns: u64,
        /// Per occupant of a slot, from 0.
        seq: u64,
        /// Exact cgroup of the subject.
        cgroup_id: u64,
        /// `CLOCK_BOOTTIME`, nanoseconds, of the thread group leader.
        start_boottime_ns: u64,
        /// Slot.
        run: u32,
        /// Occupant of the slot.
        epoch: u32,
        /// [`kind`].
        kind: u32,
        /// Process id; 0 where it cannot be known.
        pid: u32,
        /// Thread id.
        tid: u32,
        /// Parent's process id.
        ppid: u32,
        /// Real user id.
        uid: u32,
        /// Zero.
        pad: u32,
        /// NUL-padded.
        comm: [u8; COMM_LEN],
    }
    /// `struct fs_exec`.
    Exec = "fs_exec" {
        /// Header.
        hdr: Hdr,
        /// [`exec_flag`].
        flags: u32,
        /// Bytes used in `path`.
        path_len: u16,
        /// Bytes used in `argv`.
        argv_len: u16,
        /// Bytes of all arguments.
        argv_size: u32,
        /// Bytes used in `file`.
        file_len: u16,
        /// Bytes used in `tail`.
        tail_len: u16,
        /// The inode entry that matches the file and has no event of its own; 0 = none.
        entry_ino: u64,
        /// Its device.
        entry_dev: u64,
        /// As given to execve.
        path: [u8; PATH_MAX],
        /// NUL-separated.
        argv: [u8; ARGV_MAX],
        /// The end of the arguments, where they are longer than `argv`.
        tail: [u8; ARGV_MAX],
        /// The resolved path.
        file: [u8; FILE_MAX],
    }
    /// `struct fs_fork`.
    Fork = "fs_fork" {
        /// Header; the subject is the parent.
        hdr: Hdr,
        /// `CLOCK_BOOTTIME`, nanoseconds.
        child_start_boottime_ns: u64,
        /// Exact cgroup of the child.
        child_cgroup_id: u64,
        /// Process id.
        child_pid: u32,
        /// Zero.
        pad: u32,
    }
    /// `struct fs_exit`.
    Exit = "fs_exit" {
        /// Header.
        hdr: Hdr,
        /// As wait(2) returns it.
        code: u32,
        /// Zero.
        pad: u32,
    }
    /// `struct fs_net`.
    Net = "fs_net" {
        /// Header.
        hdr: Hdr,
        /// [`net_op`].
        op: u8,
        /// 4 or 6.
        family: u8,
        /// [`verdict`].
        verdict: u8,
        /// IP protocol.
        proto: u8,
        /// Host order; 0 = none.
        port: u16,
        /// [`net_flag`].
        flags: u16,
        /// Equal events suppressed since the last one.
        repeats: u32,
        /// `SOCK_*`.
        sk_type: u32,
        /// Network order; IPv4 in the first four bytes.
        addr: [u8; 16],
    }
    /// `struct fs_sys`.
    Sys = "fs_sys" {
        /// Header.
        hdr: Hdr,
        /// Index into [`SYSCALLS`].
        call: u32,
        /// 1: through the 32-bit ABI.
        compat: u8,
        /// [`verdict`].
        verdict: u8,
        /// [`via`].
        via: u8,
        /// Zero.
        pad: u8,
        /// Register values.
        args: [u64; 3],
        /// Equal refusals suppressed since the last one.
        repeats: u64,
    }
    /// `struct fs_op`.
    Op = "fs_op" {
        /// Header.
        hdr: Hdr,
        /// [`op_what`].
        what: u32,
        /// [`verdict`].
        verdict: u8,
        /// [`via`].
        via: u8,
        /// Of an exec: 0 file, 1 memfd, 2 deleted, 3 script.
        kind: u8,
        /// [`held`].
        held: u8,
        /// Equal events suppressed since the last one.
        repeats: u32,
        /// Bytes used in `path`.
        path_len: u32,
        /// See `enum fs_op_what`.
        a: u64,
        /// See `enum fs_op_what`.
        b: u64,
        /// See `enum fs_op_what`.
        c: u64,
        /// See `enum fs_op_what`.
        path: [u8; PATH_MAX],
    }
    /// `struct fs_oom`.
    Oom = "fs_oom" {
        /// Header; the subject is the victim.
        hdr: Hdr,
    }
    /// `struct fs_move`.
    Move = "fs_move" {
        /// Header; the subject is the moved task.
        hdr: Hdr,
        /// Where it was; 0 = outside, not known.
        from_cgroup_id: u64,
        /// Where it is.
        to_cgroup_id: u64,
        /// Process that moved it.
        mover_pid: u32,
        /// [`move_flag`].
        flags: u32,
    }
}
