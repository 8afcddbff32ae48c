/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Watched system calls, told when they are made and before they do anything. Two ways to the same event:
 *   fentry     one program per call and ABI, attached to the call's own entry function: others pay nothing
 *   sys_enter  one program for all; while attached, every system call of every process takes the slow path
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

/* One copy for the 33 programs. */
static __noinline int syscall_event(__u32 call, bool compat, __u64 a, __u64 b, __u64 c)
{
	struct fs_run_cfg *run = run_of_current();
	struct fs_sys *e;

	if (!run || !((run->syscalls >> call) & 1))
		return 0;
	e = event_new(run, FS_SYSCALL, sizeof(*e));
	if (!e)
		return 0;
	subject_current(&e->hdr);
	e->call = call;
	e->compat = compat;
	e->args[0] = a;
	e->args[1] = b;
	e->args[2] = c;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* call, enum, x86-64, ia32, x32 where it has its own, arm64, arm (compat); -1 = none */
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
	X(move_mount, FS_SYS_MOVE_MOUNT, 429, 429, -1, 429, 429)

/* The loader names the function to attach to (an ABI may have more than one name for it); the section only gives
 * the program type. */
#define FENTRY(name, id, x64, ia32, x32, arm64, arm)                            \
	SEC("fentry/" NATIVE #name)                                             \
	int fs_sys_##name(__u64 *ctx)                                           \
	{                                                                       \
		struct pt_regs *r = (struct pt_regs *)ctx[0];                   \
		return syscall_event(id, in_compat_call(), NATIVE_ARGS(r));     \
	}                                                                       \
	SEC("fentry/" COMPAT #name)                                             \
	int fs_csys_##name(__u64 *ctx)                                          \
	{                                                                       \
		struct pt_regs *r = (struct pt_regs *)ctx[0];                   \
		return syscall_event(id, true, COMPAT_ARGS(r));                 \
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

SEC("tp_btf/sys_enter")
int BPF_PROG(fs_sys_enter, struct pt_regs *r, long nr)
{
	bool compat = in_compat_call();
	int call = compat ? compat_call(nr) : native_call(nr);

	if (call < 0)
		return 0;
	if (compat)
		return syscall_event(call, true, COMPAT_ARGS(r));
	return syscall_event(call, false, NATIVE_ARGS(r));
}
