/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * What else can be refused only by LSM: calls that rules forbid, privileges, sockets.
 * Each hook is on a rare path of the kernel; whoever is in no run returns after the look-up.
 */
#define PTRACE_MODE_ATTACH 0x2
#define CLONE_THREAD 0x00010000
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* A call that a rule may forbid reached what it wants to do. */
INLINE int call(struct fs_run_cfg *run, __u32 call)
{
	struct fs_counters *c;
	struct op o = { .what = 1000 + call, .effect = effect_of(run, call) };
	struct fs_sys *e;
	__u32 n;

	if (o.effect < FS_EFFECT_DENY)
		return 0; /* seen, it is told by the call's own program */
	if (o.effect == FS_EFFECT_STOP) {
		latch_stop(run);
		stop_caller(run);
	}
	c = counters_of(run->slot);
	if (c)
		__sync_fetch_and_add(&c->denied_ops, 1);
	n = 0;
	if (o.effect != FS_EFFECT_STOP && op_repeated(run, &o, FS_DENIED, &n))
		return -EPERM;
	e = event_new(run, FS_SYSCALL, sizeof(*e));
	if (!e)
		return -EPERM;
	subject_current(&e->hdr);
	e->call = call;
	e->verdict = FS_DENIED;
	e->via = FS_VIA_LSM;
	e->repeats = n;
	event_done(e, false);
	return -EPERM;
}

#define CALL_GUARD(hook, number)                                    \
	SEC("lsm/" #hook)                                           \
	int fs_lsm_##hook(void *ctx)                                \
	{                                                           \
		struct fs_run_cfg *run = run_of_current();          \
								    \
		return run ? call(run, number) : 0;                 \
	}

CALL_GUARD(sb_pivotroot, FS_SYS_PIVOT_ROOT)
CALL_GUARD(path_chroot, FS_SYS_CHROOT)
CALL_GUARD(perf_event_open, FS_SYS_PERF_EVENT_OPEN)
CALL_GUARD(quotactl, FS_SYS_QUOTACTL)

/* A hook that several calls reach: FIRST, SECOND, THIRD. In none of them it is judged as FIRST. */
#define SHARED_GUARD(hook, first, second, third)                            \
	SEC("lsm/" #hook)                                                   \
	int fs_lsm_##hook(void *ctx)                                        \
	{                                                                   \
		struct fs_run_cfg *run = run_of_current();                  \
		int now;                                                    \
									    \
		if (!run)                                                   \
			return 0;                                           \
		now = call_of_current();                                    \
		if (now == second)                                          \
			return call(run, second);                           \
		return call(run, now == third ? third : first);             \
	}

SHARED_GUARD(key_permission, FS_SYS_KEYCTL, FS_SYS_ADD_KEY, FS_SYS_REQUEST_KEY)
SHARED_GUARD(key_alloc, FS_SYS_ADD_KEY, FS_SYS_KEYCTL, FS_SYS_REQUEST_KEY)
SHARED_GUARD(settime, FS_SYS_CLOCK_SETTIME, FS_SYS_SETTIMEOFDAY, FS_SYS_SETTIMEOFDAY)

/* linux/capability.h */
#define CAP_DAC_READ_SEARCH 2
#define CAP_SYS_MODULE 16
#define CAP_SYS_RAWIO 17
#define CAP_SYS_PACCT 20
#define CAP_SYS_ADMIN 21
#define CAP_SYS_BOOT 22
#define CAP_SYS_TIME 25
#define CAPS_OF_CALLS                                                                                     \
	(POINT(CAP_DAC_READ_SEARCH) | POINT(CAP_SYS_MODULE) | POINT(CAP_SYS_RAWIO) | POINT(CAP_SYS_PACCT) | \
	 POINT(CAP_SYS_ADMIN) | POINT(CAP_SYS_BOOT) | POINT(CAP_SYS_TIME))

/* Calls without a hook of their own ask for a capability first. Attached only while a run has a rule on one of them: others ask
 * for capabilities too. */
SEC("lsm/capable")
int BPF_PROG(fs_lsm_capable, const struct cred *cred, struct user_namespace *ns, int cap)
{
	struct fs_run_cfg *run;
	int now;

	if ((__u32)cap > 63 || !(CAPS_OF_CALLS >> cap & 1))
		return 0;
	now = call_of_current();
	/* On the way through a path any call may ask for this one. */
	if (now < 0 || (cap == CAP_DAC_READ_SEARCH && now != FS_SYS_OPEN_BY_HANDLE_AT))
		return 0;
	run = run_of_current();
	return run ? call(run, now) : 0;
}

/* Its file is all that memfd_create asks for. Attached as the one above: every file that is opened comes by. */
SEC("lsm/file_alloc_security")
int BPF_PROG(fs_lsm_file_alloc_security, struct file *file)
{
	struct fs_run_cfg *run;

	if (call_of_current() != FS_SYS_MEMFD_CREATE)
		return 0;
	run = run_of_current();
	return run ? call(run, FS_SYS_MEMFD_CREATE) : 0;
}

/* enum kernel_load_data_id and kernel_read_file_id, which are one list */
#define LOADING_MODULE 2
#define LOADING_KEXEC_IMAGE 3
#define LOADING_KEXEC_INITRAMFS 4

INLINE int loading(__u32 id, __u32 module, __u32 kexec)
{
	struct fs_run_cfg *run = run_of_current();

	if (!run)
		return 0;
	if (id == LOADING_MODULE)
		return call(run, module);
	if (id == LOADING_KEXEC_IMAGE || id == LOADING_KEXEC_INITRAMFS)
		return call(run, kexec);
	return 0;
}

SEC("lsm/kernel_load_data")
int BPF_PROG(fs_lsm_kernel_load_data, int id)
{
	return loading(id, FS_SYS_INIT_MODULE, FS_SYS_KEXEC_LOAD);
}

SEC("lsm/kernel_read_file")
int BPF_PROG(fs_lsm_kernel_read_file, struct file *file, int id)
{
	return loading(id, FS_SYS_FINIT_MODULE, FS_SYS_KEXEC_FILE_LOAD);
}

/* Anonymous inodes that are made for one call each. */
SEC("lsm/inode_init_security_anon")
int BPF_PROG(fs_lsm_inode_init_security_anon, struct inode *inode, const struct qstr *name)
{
	struct fs_run_cfg *run = run_of_current();
	char head[5] = {};

	if (!run)
		return 0;
	bpf_probe_read_kernel_str(head, sizeof(head), BPF_CORE_READ(name, name));
	/* No hook is on the way of a ring that is there: who may not use one makes none. */
	if (head[1] == 'i' && head[2] == 'o' && head[3] == '_')
		return call(run, FS_SYS_IO_URING_SETUP) ?: call(run, FS_SYS_IO_URING_ENTER) ?:
							   call(run, FS_SYS_IO_URING_REGISTER);
	if (head[1] == 'u' && head[2] == 's' && head[3] == 'e')
		return call(run, FS_SYS_USERFAULTFD);
	return 0;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(fs_lsm_ptrace_access_check, struct task_struct *child, unsigned int mode)
{
	struct fs_run_cfg *run;
	int now;

	if (!(mode & PTRACE_MODE_ATTACH))
		return 0;
	run = run_of_current();
	if (!run)
		return 0;
	if (run->flags & FS_RUN_PROTECT && run_of_cgroup(cgroup_of(child)) != run)
		return protect(run, FS_PROTECT_TRACE, child->tgid);
	now = call_of_current();
	if (now == FS_SYS_PTRACE || now == FS_SYS_PROCESS_VM_READV || now == FS_SYS_PROCESS_VM_WRITEV ||
	    now == FS_SYS_PIDFD_GETFD)
		return call(run, now);
	/* By another way, as /proc/PID/mem: the strictest of what is said of them holds. */
	return call(run, FS_SYS_PTRACE) ?: call(run, FS_SYS_PROCESS_VM_WRITEV) ?: call(run, FS_SYS_PROCESS_VM_READV) ?:
	       call(run, FS_SYS_PIDFD_GETFD);
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(fs_lsm_ptrace_traceme, struct task_struct *parent)
{
	struct fs_run_cfg *run = run_of_current();

	return run ? call(run, FS_SYS_PTRACE) : 0;
}

SEC("lsm/bpf")
int BPF_PROG(fs_lsm_bpf, int cmd)
{
	struct fs_run_cfg *run = run_of_current();

	if (!run)
		return 0;
	/* First the policy's rule, which has an event of its own. */
	return call(run, FS_SYS_BPF) ?: (run->flags & FS_RUN_PROTECT ? protect(run, FS_PROTECT_BPF, cmd) : 0);
}

/* ---- privileges ----------------------------------------------------------------------------------- */

INLINE int privilege(struct fs_run_cfg *run, __u32 point)
{
	struct op o = { .what = FS_OP_PRIVILEGE, .via = FS_VIA_LSM, .effect = effect_of(run, point), .a = point };

	return o.effect ? settle(run, &o) : 0;
}

SEC("lsm/bprm_creds_from_file")
int BPF_PROG(fs_lsm_bprm_creds_from_file, struct linux_binprm *bprm)
{
	struct fs_run_cfg *run = run_of_current();
	const struct cred *now, *then;
	int result = 0;

	if (!run)
		return 0;
	now = bpf_get_current_task_btf()->cred;
	then = BPF_CORE_READ(bprm, cred);
	/* Observed, the exec that succeeds tells of it. */
	if (now->euid.val && !BPF_CORE_READ(then, euid.val) &&
	    ((run->deny | run->stop) >> FS_POINT_PRIV_SETUID) & 1)
		result = privilege(run, FS_POINT_PRIV_SETUID);
	if (!result && permitted(then) & ~permitted(now))
		result = privilege(run, FS_POINT_PRIV_CAPABILITY);
	return result;
}

/* The fallback: told of credentials that the caller is about to have, and had no hook to refuse. */
INLINE void seen_gain(struct fs_run_cfg *run, const struct cred *then)
{
	const struct cred *now = bpf_get_current_task_btf()->cred;
	struct op o = {
		.what = FS_OP_PRIVILEGE,
		.via = FS_VIA_TRACEPOINT,
		.effect = effect_of(run, FS_POINT_PRIV_CAPABILITY),
		.a = FS_POINT_PRIV_CAPABILITY,
	};

	if (now->euid.val && !BPF_CORE_READ(then, euid.val))
		seen_root(run, FS_VIA_TRACEPOINT);
	if (o.effect && permitted(then) & ~permitted(now))
		settle(run, &o);
}

/* From 6.10 on. Attached only while a run has a rule on gains, and so the next one. */
SEC("tp_btf/sched_prepare_exec")
int BPF_PROG(fs_gain_exec, struct task_struct *task, struct linux_binprm *bprm)
{
	struct fs_run_cfg *run = run_of_current();

	if (run)
		seen_gain(run, BPF_CORE_READ(bprm, cred));
	return 0;
}

/* Before that, where functions can be entered: every change of credentials comes by, as a call's besides an exec's. What a new
 * user namespace gives counts in it alone, and is told as such. */
SEC("fentry/commit_creds")
int BPF_PROG(fs_gain_creds, struct cred *then)
{
	struct fs_run_cfg *run = run_of_current();

	if (run && BPF_CORE_READ(then, user_ns) == bpf_get_current_task_btf()->cred->user_ns)
		seen_gain(run, then);
	return 0;
}

SEC("lsm/task_fix_setuid")
int BPF_PROG(fs_lsm_task_fix_setuid, struct cred *new, const struct cred *old)
{
	struct fs_run_cfg *run;

	if (new->euid.val || !old->euid.val)
		return 0;
	run = run_of_current();
	return run ? privilege(run, FS_POINT_PRIV_SETUID) : 0;
}

SEC("lsm/userns_create")
int BPF_PROG(fs_lsm_userns_create, const struct cred *cred)
{
	struct fs_run_cfg *run = run_of_current();

	if (!run)
		return 0;
	return privilege(run, FS_POINT_PRIV_USERNS) ?: call(run, FS_SYS_UNSHARE);
}

SEC("lsm/task_alloc")
int BPF_PROG(fs_lsm_task_alloc, struct task_struct *task, unsigned long flags)
{
	struct op o = { .via = FS_VIA_LSM };
	struct fs_run_cfg *run;

	if (flags & CLONE_THREAD)
		return 0;
	run = run_of_current();
	if (!run || !(run->max_procs || run->max_forks))
		return 0;
	o.effect = effect_of(run, FS_POINT_FORK);
	return o.effect >= FS_EFFECT_DENY && beyond_limits(run, &o, false) ? settle(run, &o) : 0;
}

/* ---- sockets -------------------------------------------------------------------------------------- */

SEC("lsm/socket_create")
int BPF_PROG(fs_lsm_socket_create, int family, int type, int protocol, int kern)
{
	struct fs_run_cfg *run;
	struct op o = { .what = FS_OP_SOCKET, .via = FS_VIA_LSM, .a = family, .b = type, .c = protocol };

	if (kern)
		return 0;
	run = run_of_current();
	if (!run)
		return 0;
	o.effect = family_effect(run, family);
	if (unseen_family(family) && held(run))
		refuse_held_op(run, &o);
	return o.effect ? settle(run, &o) : 0;
}

SEC("lsm/socket_listen")
int BPF_PROG(fs_lsm_socket_listen, struct socket *sock)
{
	struct fs_run_cfg *run = run_of_current();

	return run ? listens(run, (__u64)BPF_CORE_READ(sock, sk), FS_VIA_LSM) : 0;
}

struct sockaddr_head {
	__u16 family;
	__u16 port;
	__u32 v4;
	__u32 v6[4];
};

/* The call's own judgement, made here too: for sockets of others that the run has in hand, and because only here can the
 * caller be stopped. The cgroup's hook is not reached when this refuses. */
SEC("lsm/socket_connect")
int BPF_PROG(fs_lsm_socket_connect, struct socket *sock, void *address, int addrlen)
{
	struct fs_run_cfg *run = run_of_current();
	struct dst d = { .op = FS_NET_CONNECT };
	struct sockaddr_head head = {};
	bool was_held;

	if (!run || !(run->flags & (FS_RUN_ENFORCE | FS_RUN_NET_DENIED) || held(run)))
		return 0;
	bpf_probe_read_kernel(&head, sizeof(head), address);
	if (head.family == AF_INET)
		dst4(&d, head.v4);
	else if (head.family == AF_INET6)
		dst6(&d, head.v6[0], head.v6[1], head.v6[2], head.v6[3]);
	else
		return 0;
	d.port = bpf_ntohs(head.port);
	d.proto = BPF_CORE_READ(sock, sk, sk_protocol);
	d.sk_type = BPF_CORE_READ(sock, type);
	was_held = held(run);
	/* The packets of a socket that was made outside the run reach none of its programs. */
	if (sends_nothing(&d) && run_of_cgroup((__u64)BPF_CORE_READ(sock, sk, sk_cgrp_data.cgroup)) == run)
		d.flags |= FS_NET_PROBE;
	if (call_verdict_quiet(run, &d) != FS_DENIED)
		return 0;
	if (!was_held && held(run) & FS_LATCH_STOP)
		stop_caller(run);
	call_refused(run, &d);
	return -EPERM;
}

/* A socket made outside the run follows its maker's cgroup, not the run's bounds: it is not let in. */
SEC("lsm/file_receive")
int BPF_PROG(fs_lsm_file_receive, struct file *file)
{
	struct op o = { .what = FS_OP_PROTECT, .via = FS_VIA_LSM, .a = FS_PROTECT_SOCKET };
	struct fs_run_cfg *run = run_of_current();
	struct socket *sock;
	__u16 family;

	if (!run || !(run->flags & (FS_RUN_ENFORCE | FS_RUN_NET_DENIED) || held(run)))
		return 0;
	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	sock = (struct socket *)BPF_CORE_READ(file, private_data);
	family = BPF_CORE_READ(sock, sk, __sk_common.skc_family);
	if (family == AF_UNIX || family == AF_NETLINK)
		return 0;
	if (run_of_cgroup((__u64)BPF_CORE_READ(sock, sk, sk_cgrp_data.cgroup)) == run)
		return 0;
	o.key_b = BPF_CORE_READ(file, f_inode, i_ino);
	if (run->flags & (FS_RUN_ENFORCE | FS_RUN_NET_DENIED))
		o.effect = FS_EFFECT_DENY;
	else
		refuse_held_op(run, &o);
	return settle(run, &o);
}
