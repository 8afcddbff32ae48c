/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Watched system calls, told when they are made and before they do anything. Two ways to the same event:
 *   fentry     one program per call and ABI, attached to the call's own entry function: others pay nothing
 *   sys_enter  one program for all (entries.h); while attached, every system call of every process takes the slow path
 * The arguments are the registers' values; memory behind them is never read, as the caller can change it.
 */
#if defined(__TARGET_ARCH_x86)
#define TS_COMPAT 0x2
#define NATIVE "__x64_sys_"
#define COMPAT "__ia32_sys_"
#define NATIVE_ARGS(r) (r)->di, (r)->si, (r)->dx
#define COMPAT_ARGS(r) (r)->bx, (r)->cx, (r)->dx
#elif defined(__TARGET_ARCH_arm64)
#define TIF_32BIT 22
#define NATIVE "__arm64_sys_"
#define COMPAT "__arm64_compat_sys_"
#define NATIVE_ARGS(r) (r)->regs[0], (r)->regs[1], (r)->regs[2]
#define COMPAT_ARGS(r) (r)->regs[0], (r)->regs[1], (r)->regs[2]
#else
#error "no system call table for this architecture"
#endif

INLINE bool in_compat_call(void)
{
	struct task_struct *t = bpf_get_current_task_btf();

#if defined(__TARGET_ARCH_x86)
	return t->thread_info.status & TS_COMPAT;
#else
	return (t->thread_info.flags >> TIF_32BIT) & 1;
#endif
}

/* One copy for all of them. WAY: the call, whether it came by the 32-bit ABI, and enum fs_via. */
#define WAY(call, compat, via) ((call) | (compat) << 8 | (via) << 16)

SHARED int syscall_event(__u32 way, __u64 a, __u64 b, __u64 c)
{
	struct fs_run_cfg *run = run_of_current();
	__u32 call = way & 0xff;
	struct fs_sys *e;

	if (!run || !((run->watch >> call) & 1))
		return 0;
	if ((run->stop >> call) & 1) {
		latch_stop(run);
		stop_caller(run);
	}
	e = event_new(run, FS_SYSCALL, sizeof(*e));
	if (!e)
		return 0;
	subject_current(&e->hdr);
	e->call = call;
	e->compat = way >> 8;
	e->via = way >> 16;
	e->args[0] = a;
	e->args[1] = b;
	e->args[2] = c;
	event_done(e, false);
	return 0;
}

/* The call by its kernel function, enum, x86-64, ia32, x32 where it has its own, arm64, arm (compat); negative = none. Some calls
 * have more than one function. */
#define SYSCALLS(X)                                                             \
	X(ptrace, FS_SYS_PTRACE, 101, 26, 521, 117, 26)                         \
	X(mount, FS_SYS_MOUNT, 165, 21, -1, 40, 21)                             \
	X(unshare, FS_SYS_UNSHARE, 272, 310, -1, 97, 337)                       \
	X(setns, FS_SYS_SETNS, 308, 346, -1, 268, 375)                          \
	X(bpf, FS_SYS_BPF, 321, 357, -1, 280, 386)                              \
	X(init_module, FS_SYS_INIT_MODULE, 175, 128, -1, 105, 128)              \
	X(finit_module, FS_SYS_FINIT_MODULE, 313, 350, -1, 273, 379)            \
	X(kexec_load, FS_SYS_KEXEC_LOAD, 246, 283, 528, 104, 347)               \
	X(io_uring_setup, FS_SYS_IO_URING_SETUP, 425, 425, -1, 425, 425)        \
	X(memfd_create, FS_SYS_MEMFD_CREATE, 319, 356, -1, 279, 385)            \
	X(process_vm_writev, FS_SYS_PROCESS_VM_WRITEV, 311, 348, 540, 271, 377) \
	X(userfaultfd, FS_SYS_USERFAULTFD, 323, 374, -1, 282, 388)              \
	X(keyctl, FS_SYS_KEYCTL, 250, 288, -1, 219, 311)                        \
	X(reboot, FS_SYS_REBOOT, 169, 88, -1, 142, 88)                          \
	X(kexec_file_load, FS_SYS_KEXEC_FILE_LOAD, 320, -1, -1, 294, 401)       \
	X(move_mount, FS_SYS_MOVE_MOUNT, 429, 429, -1, 429, 429)                \
	X(umount, FS_SYS_UMOUNT2, 166, 52, -1, 39, 52)                          \
	X(pivot_root, FS_SYS_PIVOT_ROOT, 155, 217, -1, 41, 218)                 \
	X(fsopen, FS_SYS_FSOPEN, 430, 430, -1, 430, 430)                        \
	X(open_tree, FS_SYS_OPEN_TREE, 428, 428, -1, 428, 428)                  \
	X(mount_setattr, FS_SYS_MOUNT_SETATTR, 442, 442, -1, 442, 442)          \
	X(delete_module, FS_SYS_DELETE_MODULE, 176, 129, -1, 106, 129)          \
	X(add_key, FS_SYS_ADD_KEY, 248, 286, -1, 217, 309)                      \
	X(request_key, FS_SYS_REQUEST_KEY, 249, 287, -1, 218, 310)              \
	X(settimeofday, FS_SYS_SETTIMEOFDAY, 164, 79, -1, 170, 79)              \
	X(clock_settime, FS_SYS_CLOCK_SETTIME, 227, 404, -1, 112, 404)          \
	X(clock_settime32, FS_SYS_CLOCK_SETTIME, -103, 264, -1, -103, 262)      \
	X(clock_adjtime, FS_SYS_CLOCK_ADJTIME, 305, 405, -1, 266, 405)          \
	X(clock_adjtime32, FS_SYS_CLOCK_ADJTIME, -104, 343, -1, -104, 372)      \
	X(adjtimex, FS_SYS_ADJTIMEX, 159, -1, -1, 171, -1)                      \
	X(adjtimex_time32, FS_SYS_ADJTIMEX, -105, 124, -1, -105, 124)           \
	X(stime32, FS_SYS_SETTIMEOFDAY, -106, 25, -1, -106, -1)                 \
	X(oldumount, FS_SYS_UMOUNT2, -107, 22, -1, -107, -1)                    \
	X(io_uring_enter, FS_SYS_IO_URING_ENTER, 426, 426, -1, 426, 426)        \
	X(io_uring_register, FS_SYS_IO_URING_REGISTER, 427, 427, -1, 427, 427)  \
	X(iopl, FS_SYS_IOPL, 172, 110, -1, -101, -1)                            \
	X(ioperm, FS_SYS_IOPERM, 173, 101, -1, -102, -1)                        \
	X(process_vm_readv, FS_SYS_PROCESS_VM_READV, 310, 347, 539, 270, 376)   \
	X(pidfd_getfd, FS_SYS_PIDFD_GETFD, 438, 438, -1, 438, 438)              \
	X(perf_event_open, FS_SYS_PERF_EVENT_OPEN, 298, 336, -1, 241, 364)      \
	X(open_by_handle_at, FS_SYS_OPEN_BY_HANDLE_AT, 304, 342, -1, 265, 371)  \
	X(chroot, FS_SYS_CHROOT, 161, 61, -1, 51, 61)                           \
	X(swapon, FS_SYS_SWAPON, 167, 87, -1, 224, 87)                          \
	X(acct, FS_SYS_ACCT, 163, 51, -1, 89, 51)                               \
	X(quotactl, FS_SYS_QUOTACTL, 179, 131, -1, 60, 131)                     \
	X(quotactl_fd, FS_SYS_QUOTACTL, 443, 443, -1, 443, 443)                 \
	X(fspick, FS_SYS_FSPICK, 433, 433, -1, 433, 433)                        \
	X(open_tree_attr, FS_SYS_OPEN_TREE_ATTR, 467, 467, -1, 467, 467)

/* The loader names the function to attach to (an ABI may have more than one name for it); the section only gives
 * the program type. */
#define FENTRY(name, id, x64, ia32, x32, arm64, arm)                            \
	SEC("fentry/" NATIVE #name)                                             \
	int fs_sys_##name(__u64 *ctx)                                           \
	{                                                                       \
		struct pt_regs *r = (struct pt_regs *)ctx[0];                   \
		return syscall_event(WAY(id, in_compat_call(), FS_VIA_FENTRY), NATIVE_ARGS(r));     \
	}                                                                       \
	SEC("fentry/" COMPAT #name)                                             \
	int fs_csys_##name(__u64 *ctx)                                          \
	{                                                                       \
		struct pt_regs *r = (struct pt_regs *)ctx[0];                   \
		return syscall_event(WAY(id, 1, FS_VIA_FENTRY), COMPAT_ARGS(r));                 \
	}

SYSCALLS(FENTRY)

#if defined(__TARGET_ARCH_x86)
#define NATIVE_NR(name, id, x64, ia32, x32, arm64, arm) \
	case x64:                                       \
		return id;
#define X32_NR(name, id, x64, ia32, x32, arm64, arm) \
	if (x32 >= 0 && nr == x32)                   \
		return id;
#define COMPAT_NR(name, id, x64, ia32, x32, arm64, arm) \
	if (ia32 >= 0 && nr == ia32)                    \
		return id;
#define X32_BIT 0x40000000
#else
#define NATIVE_NR(name, id, x64, ia32, x32, arm64, arm) \
	case arm64:                                     \
		return id;
#define X32_NR(name, id, x64, ia32, x32, arm64, arm)
#define COMPAT_NR(name, id, x64, ia32, x32, arm64, arm) \
	if (arm >= 0 && nr == arm)                      \
		return id;
#define X32_BIT 0
#endif

INLINE int native_call(long nr)
{
	if (nr & X32_BIT) {
		nr &= ~(long)X32_BIT;
		SYSCALLS(X32_NR)
	}
	switch (nr) {
		SYSCALLS(NATIVE_NR)
	}
	return -1;
}

INLINE int compat_call(long nr)
{
	SYSCALLS(COMPAT_NR)
	return -1;
}

#if defined(__TARGET_ARCH_x86)
#define NR_CLONE 56
#define NR_UNSHARE 272
#define NR_SOCKET 41
#define NR32_UNSHARE 310
#define NR32_SOCKET 359
#define NR_CLONE_COMPAT 120
#define CALL_NR(r) (int)(r)->orig_ax
#else
#define NR_CLONE 220
#define NR_UNSHARE 97
#define NR_SOCKET 198
#define NR32_UNSHARE 337
#define NR32_SOCKET 281
#define NR_CLONE_COMPAT 120
#define CALL_NR(r) (r)->syscallno
#endif
#define NR_CLONE3 435

/* The watched call that the caller is in, -1: another. What the kernel dispatches by: it can be changed by a tracer only, and
 * before the call. clone reaches the hooks that ask only to make namespaces, as unshare does. */
SHARED int call_of_current(void)
{
	struct pt_regs *r = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	bool compat = in_compat_call();
	long nr = CALL_NR(r);

	if (nr == (compat ? NR_CLONE_COMPAT : NR_CLONE) || nr == NR_CLONE3)
		return FS_SYS_UNSHARE;
	return compat ? compat_call(nr) : native_call(nr);
}
