// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The one object. Everything is in one translation unit so that all programs share one set of maps; the loader
 * loads each program by itself, so a kernel that refuses one still gets the others.
 *
 *   common.h    maps, attribution of a task or cgroup to a run, latches, writing an event
 *   rules.h     what rules say of a call, device or port; acting on it
 *   paths.h     what they say of a file
 *   life.h      exec, fork, exit, OOM, moving between cgroups      (tp_btf)
 *   net.h       what may leave: lists, judging, telling
 *   calls.h     ... at connect, sendmsg, bind, socket              (programs on the run's own cgroup)
 *   asked.h     which answers of name servers are believed         (the same)
 *   dns.h       addresses that allowed names were answered with    (the same)
 *   budget.h    bytes and rates by class of destination            (the same)
 *   packet.h    egress allow-list at the packets, byte counters    (the same)
 *   device.h    device files                                       (the same), and stopping who stopped the run (fexit)
 *   syscalls.h  watched system calls                               (fentry, or sys_enter where refused)
 *   files.h     exec, open, executable memory, refused             (lsm)
 *   guards.h    calls, privileges, sockets, failsafe's own things  (lsm)
 *   early.h     cgroups that are bound when they are made          (tp_btf)
 *   carry.h     what one daemon's programs leave to the next's     (maps only)
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "vmlinux_min.h"
#include "abi.h"
#include "common.h"
#include "rules.h"
#include "paths.h"
#include "life.h"
#include "net.h"
#include "calls.h"
#include "asked.h"
#include "dns.h"
#include "budget.h"
#include "packet.h"
#include "device.h"
#include "syscalls.h"
#include "entries.h"
#include "rings.h"
#include "own.h"
#include "files.h"
#include "guards.h"
#include "reach.h"
#include "early.h"
#include "carry.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The types of the ABI that no map mentions, kept in the object's BTF for the test of the Rust mirror. */
#define KEEP(type) const struct type *fs_keep_##type __attribute__((used))
KEEP(fs_exec);
KEEP(fs_fork);
KEEP(fs_exit);
KEEP(fs_net);
KEEP(fs_sys);
KEEP(fs_oom);
KEEP(fs_op);

KEEP(fs_move);
