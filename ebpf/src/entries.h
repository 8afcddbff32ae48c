/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * The entry of every system call: watched calls where their functions cannot be entered, and where LSM is refused what its hooks
 * would have judged: files, memory, sockets, user namespaces, and root gained by a call.
 */
#if defined(__TARGET_ARCH_x86)
#define NR_OPEN 2
#define NR_CREAT 85
#define NR_OPENAT 257
#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_PKEY_MPROTECT 329
#define NR_TRUNCATE 76
#define NR_SETUID 105
#define NR_SETREUID 113
#define NR_SETRESUID 117
#else
#define NR_OPEN -101
#define NR_CREAT -102
#define NR_OPENAT 56
#define NR_MMAP 222
#define NR_MPROTECT 226
#define NR_PKEY_MPROTECT 288
#define NR_TRUNCATE 45
#define NR_SETUID 146
#define NR_SETREUID 145
#define NR_SETRESUID 147
#endif
#define NR_OPENAT2 437
#define NR_SOCKETCALL -110 /* of the 32-bit ABI of x86 */

/* The same calls of the 32-bit ABI, by their native numbers. */
#if defined(__TARGET_ARCH_x86)
#define NR32_OPENAT 295
#define NR32_PKEY_MPROTECT 380
#else
#define NR32_OPENAT 322
#define NR32_PKEY_MPROTECT 394
#endif

INLINE long native_number(long nr)
{
	switch (nr) {
	case 5:
		return NR_OPEN;
	case 8:
		return NR_CREAT;
	case 92:
	case 193: /* truncate64 */
		return NR_TRUNCATE;
	case 23:
	case 213: /* setuid32, and so below */
		return NR_SETUID;
	case 70:
	case 203:
		return NR_SETREUID;
	case 164:
	case 208:
		return NR_SETRESUID;
	case NR32_OPENAT:
		return NR_OPENAT;
	case NR_OPENAT2:
		return NR_OPENAT2;
	case 192: /* mmap2 */
		return NR_MMAP;
	case 125:
		return NR_MPROTECT;
	case NR32_PKEY_MPROTECT:
		return NR_PKEY_MPROTECT;
	case NR_CLONE_COMPAT:
		return NR_CLONE;
	case NR_CLONE3:
		return NR_CLONE3;
	case NR32_UNSHARE:
		return NR_UNSHARE;
	case NR32_SOCKET:
		return NR_SOCKET;
#if defined(__TARGET_ARCH_x86)
	case 102:
		return NR_SOCKETCALL;
#endif
	}
	return -1;
}

#define MAP_ANONYMOUS 0x20
#define O_ACCMODE 3
#define O_RDONLY 0
#define O_CREAT_OR_TRUNC 01100

/* The file whose path R holds, as it was given, is to be opened. */
INLINE void seen_path(struct fs_run_cfg *run, struct room *r, bool write, __u8 via)
{
	struct op o = { .what = FS_OP_OPEN, .via = via, .a = write };
	union effects all = { .word = path_effects(run->table, r) };

	o.effect = write && all.e.write > all.e.read ? all.e.write : all.e.read;
	if (!o.effect)
		return;
	o.path = r->path;
	/* The head of the name tells one from another. */
	bpf_probe_read_kernel(&o.key_a, sizeof(o.key_a), r->path + 5);
	bpf_probe_read_kernel(&o.key_b, sizeof(o.key_b), r->path + 13);
	settle(run, &o);
}

/* The fallback for the LSM hooks of files.h: the path is read before the kernel reads it. */
INLINE int seen_open(struct fs_run_cfg *run, __u64 name, bool write)
{
	struct room *r;

	if (!(run->flags & FS_RUN_OPENS))
		return 0;
	r = room_take();
	if (!r)
		return 0;
	if (bpf_probe_read_user_str(r->path, sizeof(r->path), (void *)name) > 0)
		seen_path(run, r, write, FS_VIA_SYS_ENTER);
	room_give(r);
	return 0;
}

INLINE void seen_point(struct fs_run_cfg *run, __u32 what, __u32 point)
{
	struct op o = { .what = what, .via = FS_VIA_SYS_ENTER, .effect = effect_of(run, point), .a = point };

	if (o.effect)
		settle(run, &o);
}

INLINE int seen_memory(struct fs_run_cfg *run, __u64 prot, bool anonymous)
{
	if (!(prot & PROT_EXEC))
		return 0;
	if (prot & PROT_WRITE)
		seen_point(run, FS_OP_MEMORY, FS_POINT_MEM_WRITE_EXEC);
	if (anonymous)
		seen_point(run, FS_OP_MEMORY, FS_POINT_MEM_ANONYMOUS);
	return 0;
}

#define CLONE_NEWUSER 0x10000000
#define SYS_SOCKET 1 /* linux/net.h */

INLINE int seen_userns(struct fs_run_cfg *run, __u64 flags)
{
	if (flags & CLONE_NEWUSER)
		seen_point(run, FS_OP_PRIVILEGE, FS_POINT_PRIV_USERNS);
	return 0;
}

INLINE int seen_socket(struct fs_run_cfg *run, __u32 family, __u32 type, __u32 protocol, __u8 via)
{
	struct op o = { .what = FS_OP_SOCKET, .via = via, .a = family, .b = type, .c = protocol };

	o.effect = family_effect(run, family);
	return o.effect ? settle(run, &o) : 0;
}

#define CAP_SETUID 7

/* The call asks for this effective user. What the kernel is going to refuse is no gain; in a user namespace of its own root is
 * somebody else. */
INLINE int seen_setuid(struct fs_run_cfg *run, __u32 euid)
{
	const struct cred *now = bpf_get_current_task_btf()->cred;

	if (euid || !now->euid.val || BPF_CORE_READ(now, user_ns, level))
		return 0;
	if (now->uid.val && now->suid.val && !(permitted(now) >> CAP_SETUID & 1))
		return 0;
	seen_root(run, FS_VIA_SYS_ENTER);
	return 0;
}

INLINE bool is_judged(long nr)
{
	switch (nr) {
	case NR_OPEN:
	case NR_CREAT:
	case NR_OPENAT:
	case NR_OPENAT2:
	case NR_TRUNCATE:
	case NR_MMAP:
	case NR_MPROTECT:
	case NR_PKEY_MPROTECT:
	case NR_SOCKET:
	case NR_SOCKETCALL:
	case NR_CLONE:
	case NR_CLONE3:
	case NR_UNSHARE:
	case NR_SETUID:
	case NR_SETREUID:
	case NR_SETRESUID:
		return true;
	}
	return false;
}

SHARED int seen_call(long nr, __u64 a, __u64 b, __u64 c, __u64 d)
{
	struct fs_run_cfg *run = is_judged(nr) ? run_of_current() : NULL;

	if (!run)
		return 0;
	if (nr == NR_OPEN)
		return seen_open(run, a, (b & O_ACCMODE) != O_RDONLY || b & O_CREAT_OR_TRUNC);
	if (nr == NR_CREAT || nr == NR_TRUNCATE)
		return seen_open(run, a, true);
	if (nr == NR_OPENAT)
		return seen_open(run, b, (c & O_ACCMODE) != O_RDONLY || c & O_CREAT_OR_TRUNC);
	if (nr == NR_OPENAT2) {
		__u64 flags = 0; /* the first field of struct open_how */

		bpf_probe_read_user(&flags, sizeof(flags), (void *)c);
		return seen_open(run, b, (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT_OR_TRUNC);
	}
	if (nr == NR_SETUID)
		return seen_setuid(run, a);
	if (nr == NR_SETREUID || nr == NR_SETRESUID)
		return seen_setuid(run, b);
	if (nr == NR_CLONE || nr == NR_UNSHARE)
		return seen_userns(run, a);
	if (nr == NR_CLONE3) {
		__u64 flags = 0; /* the first field of struct clone_args */

		bpf_probe_read_user(&flags, sizeof(flags), (void *)a);
		return seen_userns(run, flags);
	}
	if (nr == NR_SOCKET)
		return seen_socket(run, a, b, c, FS_VIA_SYS_ENTER);
	if (nr == NR_SOCKETCALL) {
		__u32 args[3] = {};

		if (a != SYS_SOCKET || bpf_probe_read_user(args, sizeof(args), (void *)b))
			return 0;
		return seen_socket(run, args[0], args[1], args[2], FS_VIA_SYS_ENTER);
	}
	if (nr == NR_MMAP)
		return seen_memory(run, c, d & MAP_ANONYMOUS);
	/* What is behind the address is not known here: what was mapped executable from a file needs no mprotect. */
	return seen_memory(run, c, true);
}

#if defined(__TARGET_ARCH_x86)
#define FOURTH_ARG(r) (r)->r10
#define COMPAT_FOURTH_ARG(r) (__u32)(r)->si
#else
#define FOURTH_ARG(r) (r)->regs[3]
#define COMPAT_FOURTH_ARG(r) (__u32)(r)->regs[3]
#endif

SEC("tp_btf/sys_enter")
int BPF_PROG(fs_sys_enter, struct pt_regs *r, long nr)
{
	bool compat = in_compat_call();
	int call = compat ? compat_call(nr) : native_call(nr);

	/* unshare is a call that is watched, too. */
	if (call < 0 || call == FS_SYS_UNSHARE) {
		if (compat)
			seen_call(native_number(nr), COMPAT_ARGS(r), COMPAT_FOURTH_ARG(r));
		else
			seen_call(nr & ~(long)X32_BIT, NATIVE_ARGS(r), FOURTH_ARG(r));
		if (call < 0)
			return 0;
	}
	if (compat)
		return syscall_event(WAY(call, 1, FS_VIA_SYS_ENTER), COMPAT_ARGS(r));
	return syscall_event(WAY(call, 0, FS_VIA_SYS_ENTER), NATIVE_ARGS(r));
}
