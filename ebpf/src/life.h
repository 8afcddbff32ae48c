/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Process life. These tracepoints fire for every process of the host, seldom; whoever is in no run returns after
 * the look-up.
 */
#define SIGNAL_GROUP_EXIT 0x4

#define EEXIST 17

INLINE void untracked(__u32 slot)
{
	struct fs_counters *c = counters_of(slot);

	if (c)
		__sync_fetch_and_add(&c->untracked, 1);
}

INLINE void member_set(struct fs_run_cfg *run, struct task_struct *t, __u64 cgroup_id)
{
	struct fs_member m = {
		.cgroup_id = cgroup_id,
		.slot = run->slot,
		.epoch = run->epoch,
		.euid = t->cred->euid.val,
	};
	__u32 tgid = t->tgid;
	long r = bpf_map_update_elem(&members, &tgid, &m, BPF_NOEXIST);

	if (!r)
		lives_add(m.slot, 1);
	else if (r == -EEXIST)
		r = bpf_map_update_elem(&members, &tgid, &m, BPF_ANY);
	if (r)
		untracked(m.slot);
}

INLINE void member_gone(__u32 tgid)
{
	struct fs_member *m = bpf_map_lookup_elem(&members, &tgid);
	__u32 slot;

	if (!m)
		return;
	slot = m->slot;
	if (!bpf_map_delete_elem(&members, &tgid))
		lives_add(slot, -1);
}

/* What is executed by the name that was given, or by its resolved path (RESOLVED says what the entries make of that), is told by its
 * exec, with the ENTRY that knows it by inode. What a rule knows by another name alone, or as the interpreter of a script, is told
 * here. */
INLINE void exec_judged(struct fs_run_cfg *run, struct linux_binprm *bprm, bool script, union effects resolved,
			struct exec_entry *entry)
{
	struct op o = { .what = FS_OP_EXEC, .via = FS_VIA_TRACEPOINT };
	__u64 dentry = (__u64)bprm->file->f_path.dentry;
	union effects named = { .word = 0 }, more;
	struct room *r = room_take();

	if (!r)
		return;
	bpf_probe_read_kernel_str(r->path, sizeof(r->path), bprm->filename);
	if (run->flags & FS_RUN_PATHS)
		named.word = path_effects(run->table, r);
	if (resolved.e.exec > named.e.exec)
		named.e.exec = resolved.e.exec;
	o.effect = dentry_effects(run, dentry).e.exec;
	if (o.effect && o.effect <= named.e.exec) {
		tell_entry(run, dentry, MEETS(USE_EXEC, o.effect), &o);
		entry->ino = o.b;
		entry->dev = o.c;
	}
	if (script) {
		bpf_probe_read_kernel_str(r->path, sizeof(r->path), bprm->interp);
		more.word = run->flags & FS_RUN_PATHS ? path_effects(run->table, r) : 0;
		if (more.e.exec > o.effect)
			o.effect = more.e.exec;
	}
	if (o.effect > named.e.exec) {
		same_file(&o, (__u64)bprm->file);
		o.path = r->path;
		tell_entry(run, dentry, MEETS(USE_EXEC, o.effect), &o);
		settle(run, &o);
	} else if (named.e.exec == FS_EFFECT_STOP) {
		latch_stop(run);
		stop_caller(run);
	}
	room_give(r);
}

/* The caller becomes root, or has: it is told of once. */
INLINE void seen_root(struct fs_run_cfg *run, __u8 via)
{
	struct op o = {
		.what = FS_OP_PRIVILEGE,
		.via = via,
		.effect = effect_of(run, FS_POINT_PRIV_SETUID),
		.a = FS_POINT_PRIV_SETUID,
	};
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct fs_member *m = bpf_map_lookup_elem(&members, &tgid);

	if (o.effect)
		settle(run, &o);
	if (m)
		m->euid = 0;
}

/* Where no LSM program could refuse it, a stop rule takes hold here: before the new image runs. */
INLINE void exec_stops(struct fs_run_cfg *run, struct task_struct *p, struct linux_binprm *bprm, __u32 flags,
		       union effects resolved, struct exec_entry *entry)
{
	__u32 tgid = p->tgid, euid = p->cred->euid.val;
	struct fs_member *m = bpf_map_lookup_elem(&members, &tgid);
	__u64 points = 0;

	if (flags & FS_EXEC_UNLINKED)
		points = kind_of_file((__u64)bprm->file) == KIND_MEMFD ? POINT(FS_POINT_EXEC_MEMFD) :
									 POINT(FS_POINT_EXEC_DELETED);
	if (flags & FS_EXEC_SCRIPT)
		points |= POINT(FS_POINT_EXEC_SCRIPT);
	if (held(run) & FS_LATCH_STOP) {
		stop_caller(run);
	} else if (run->stop & points) {
		latch_stop(run);
		stop_caller(run);
	} else if (run->flags & FS_RUN_SEEN_EXEC) {
		exec_judged(run, bprm, flags & FS_EXEC_SCRIPT, resolved, entry);
	}
	if (!m)
		return;
	/* Of a process that was in the run first, the daemon may not have been able to read the user. */
	if (m->euid && m->euid != FS_UID_UNKNOWN && !euid)
		seen_root(run, FS_VIA_TRACEPOINT);
	m->euid = euid;
}

/* What a long list of arguments has between its beginning and its end is left out. */
INLINE void exec_argv(struct fs_exec *e, struct task_struct *p)
{
	unsigned long start = p->mm->arg_start, end = p->mm->arg_end, len = end - start;

	e->argv_size = len;
	e->tail_len = 0;
	if (len > sizeof(e->argv)) {
		if (len > sizeof(e->argv) + sizeof(e->tail))
			e->flags |= FS_EXEC_ARGV_CUT;
		len = sizeof(e->argv);
		e->tail_len = sizeof(e->tail);
		if (bpf_probe_read_user(e->tail, sizeof(e->tail), (void *)(end - sizeof(e->tail)))) {
			e->tail_len = 0;
			e->flags |= FS_EXEC_ARGV_CUT;
		}
	}
	e->argv_len = len;
	if (bpf_probe_read_user(e->argv, len, (void *)start)) {
		e->argv_len = e->tail_len = 0;
		e->flags |= FS_EXEC_ARGV_LOST;
	}
}

/* The resolved path begins AT in the room. Of one that is longer than its place the end is kept: which file it is stands there. */
INLINE void exec_file(struct fs_exec *e, struct room *r, __u32 at)
{
	__u32 n = CLIMB_END - at;

	e->file_len = 0;
	barrier_var(r);
	if (!r || at >= CLIMB_END)
		return;
	if (n >= sizeof(e->file)) {
		n = sizeof(e->file) - 1;
		e->flags |= FS_EXEC_FILE_CUT;
	}
	barrier_var(n);
	n &= sizeof(e->file) - 1;
	if (!bpf_probe_read_kernel(e->file, n, r->path + (CLIMB_END - n)))
		e->file_len = n;
}

INLINE void exec_event(struct fs_run_cfg *run, struct task_struct *p, struct linux_binprm *bprm, __u32 flags,
		       struct room *r, __u32 at, const struct exec_entry *entry)
{
	struct fs_exec *e = event_new(run, FS_EXEC, sizeof(*e));
	long n;

	if (!e)
		return;
	subject_current(&e->hdr);
	e->flags = flags;
	e->entry_ino = entry->ino;
	e->entry_dev = entry->dev;
	n = bpf_probe_read_kernel_str(e->path, sizeof(e->path), bprm->filename);
	e->path_len = n > 0 ? n - 1 : 0;
	if (n == sizeof(e->path))
		e->flags |= FS_EXEC_PATH_CUT;
	exec_argv(e, p);
	exec_file(e, r, at);
	event_done(e, run->flags & FS_RUN_EXEC_WAITS);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(fs_exec, struct task_struct *p, int old_pid, struct linux_binprm *bprm)
{
	struct fs_run_cfg *run = run_of_current();
	union effects resolved = { .word = 0 };
	struct exec_entry entry = {};
	__u32 flags = 0, at = CLIMB_END;
	struct room *r;

	if (!run)
		return 0;
	if (run->flags & FS_RUN_EXEC_ONCE) {
		__u64 key = (__u64)bprm;
		struct exec_entry *kept = bpf_map_lookup_elem(&exec_entries, &key);

		if (kept) {
			entry = *kept;
			bpf_map_delete_elem(&exec_entries, &key);
		}
	}
	r = room_take();
	if (r)
		at = file_path(r, (__u64)bprm->file, (__u64)p);
	if (!r || !r->left)
		flags |= FS_EXEC_FILE_CUT;
	else if (run->flags & FS_RUN_EXECS && run->flags & FS_RUN_PATHS)
		resolved.word = path_effects_at(run->table, r, at);
	if (bprm->file->f_inode->i_nlink == 0)
		flags |= FS_EXEC_UNLINKED;
	if (bprm->interp != bprm->filename)
		flags |= FS_EXEC_SCRIPT;
	exec_stops(run, p, bprm, flags, resolved, &entry);
	if (run->flags & FS_RUN_WATCH_EXEC)
		exec_event(run, p, bprm, flags, r, at, &entry);
	/* A verifier does not know what the compiler knows of it from an earlier comparison. */
	barrier_var(r);
	if (r)
		room_give(r);
	return 0;
}

/* Until it is brought back, what it makes and whom it moves is told as its own leaving is. */
INLINE void stray_set(struct fs_run_cfg *run, __u32 tgid)
{
	struct fs_occupant stray = { .slot = run->slot, .epoch = run->epoch };

	if (bpf_map_update_elem(&strays, &tgid, &stray, BPF_ANY))
		untracked(run->slot);
}

INLINE bool strayed_from(struct fs_run_cfg *run, __u32 tgid)
{
	struct fs_occupant *s = bpf_map_lookup_elem(&strays, &tgid);

	return s && s->slot == run->slot && s->epoch == run->epoch;
}

INLINE void moved(struct fs_run_cfg *run, __u32 kind, struct task_struct *t, __u64 from, __u64 to, __u32 flags)
{
	struct fs_run_cfg *mover = run_of_current();
	__u32 mover_pid = bpf_get_current_pid_tgid() >> 32, tgid = t->tgid;
	struct fs_move *e;

	if ((mover && mover->slot == run->slot) || (!mover && strayed_from(run, mover_pid)))
		flags |= FS_MOVE_BY_RUN;
	/* One that moved itself is outside already. */
	if (kind == FS_LEAVE && (flags & FS_MOVE_BY_RUN || mover_pid == tgid))
		stray_set(run, tgid);
	e = event_new(run, kind, sizeof(*e));
	if (!e) {
		/* Who leaves under cover of a flood is noted where there is room for each. */
		struct fs_leaver l = {
			.slot = run->slot,
			.epoch = run->epoch,
			.ktime_ns = bpf_ktime_get_ns(),
			.from_cgroup_id = from,
			.to_cgroup_id = to,
			.mover_pid = mover_pid,
			.flags = flags,
		};

		if (kind == FS_LEAVE)
			bpf_map_update_elem(&leavers, &tgid, &l, BPF_ANY);
		return;
	}
	subject_task(&e->hdr, t);
	e->hdr.cgroup_id = to;
	e->from_cgroup_id = from;
	e->to_cgroup_id = to;
	e->mover_pid = mover_pid;
	e->flags = flags;
	event_done(e, false);
}

/* A fork outside every run. */
INLINE void stray_forked(struct task_struct *parent, struct task_struct *child, __u64 to)
{
	__u32 tgid = parent->tgid;
	struct fs_occupant *stray = bpf_map_lookup_elem(&strays, &tgid);

	if (stray) {
		struct fs_run_cfg left = { .slot = stray->slot, .epoch = stray->epoch };

		moved(&left, FS_LEAVE, child, cgroup_id_of(cgroup_of(parent)), to, FS_MOVE_BY_CLONE);
	}
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(fs_fork, struct task_struct *parent, struct task_struct *child)
{
	struct fs_run_cfg *run, *child_run;
	__u64 to, id, from;
	struct fs_fork *e;

	if (!any_run() || child->tgid != child->pid)
		return 0;
	run = run_of_current();
	to = cgroup_of(child);
	from = cgroup_of(parent);
	id = cgroup_id_of(to);
	child_run = to == from ? run : run_of_cgroup(to);
	if (child_run)
		member_set(child_run, child, id);
	if (run && (!child_run || child_run->slot != run->slot))
		moved(run, FS_LEAVE, child, cgroup_id_of(from), id, FS_MOVE_BY_CLONE);
	if (child_run && (!run || child_run->slot != run->slot))
		moved(child_run, FS_JOIN, child, cgroup_id_of(from), id, FS_MOVE_BY_CLONE);
	if (!run)
		run = child_run;
	if (!run) {
		stray_forked(parent, child, id);
		return 0;
	}
	if (run->max_procs || run->max_forks)
		forked(run);
	if (!(run->flags & FS_RUN_WATCH_LIFE))
		return 0;

	e = event_new(run, FS_FORK, sizeof(*e));
	if (!e)
		return 0;
	subject_current(&e->hdr);
	e->child_pid = child->tgid;
	e->child_start_boottime_ns = child->start_boottime;
	e->child_cgroup_id = id;
	event_done(e, run->flags & FS_RUN_LIFE_WAITS);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(fs_exit, struct task_struct *p)
{
	struct signal_struct *sig = p->signal;
	struct fs_run_cfg *run;
	struct fs_exit *e;
	__u32 tgid;

	if (!any_run() || sig->live.counter != 0)
		return 0; /* other threads of the process live on */
	tgid = p->tgid;
	run = run_of_current();
	if (!run) {
		bpf_map_delete_elem(&strays, &tgid);
		return 0;
	}
	member_gone(tgid);
	bpf_map_delete_elem(&stopped, &tgid);
	if (!(run->flags & FS_RUN_WATCH_LIFE))
		return 0;
	e = event_new(run, FS_EXIT, sizeof(*e));
	if (!e)
		return 0;
	subject_current(&e->hdr);
	e->code = sig->flags & SIGNAL_GROUP_EXIT ? sig->group_exit_code : p->group_leader->exit_code;
	/* The last one's is not left behind by the end of the run. */
	event_done(e, run->flags & FS_RUN_LIFE_WAITS && lives_of(run->slot));
	return 0;
}

/* Fires after the move, for the leader of the group (or the single thread of a threaded cgroup), for every
 * hierarchy: what counts is where the task now is on v2, not the cgroup in the arguments. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(fs_move, struct cgroup *dst, const char *path, struct task_struct *t)
{
	__u32 tgid = t->tgid;
	struct fs_member *seen;
	struct fs_run_cfg *run;
	__u64 to, id, from = 0;

	if (!any_run())
		return 0;
	to = cgroup_of(t);
	id = cgroup_id_of(to);
	run = run_of_cgroup(to);
	seen = bpf_map_lookup_elem(&members, &tgid);
	if (seen)
		from = seen->cgroup_id;
	if (run && seen && seen->slot == run->slot && seen->epoch == run->epoch) {
		seen->cgroup_id = id;
		return 0;
	}
	if (seen) {
		struct fs_run_cfg left = { .slot = seen->slot, .epoch = seen->epoch };

		member_gone(tgid);
		moved(&left, FS_LEAVE, t, from, id, 0);
	}
	if (run) {
		bpf_map_delete_elem(&strays, &tgid);
		member_set(run, t, id);
		moved(run, FS_JOIN, t, from, id, 0);
	}
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(fs_oom, struct task_struct *t)
{
	__u64 cgrp = cgroup_of(t);
	struct fs_run_cfg *run = run_of_cgroup(cgrp);
	struct fs_oom *e;

	if (!run)
		return 0;
	e = event_new(run, FS_OOM, sizeof(*e));
	if (!e)
		return 0;
	subject_task(&e->hdr, t);
	e->hdr.cgroup_id = cgroup_id_of(cgrp);
	event_done(e, false);
	return 0;
}

/* Kernels before 6.9 hand over the pid only: loaded where fs_oom is refused. */
SEC("tp_btf/mark_victim")
int fs_oom_pid(__u64 *ctx)
{
	/* By way of 64 bits: on later kernels it is a pointer, which may not be spilled by halves. */
	__u32 pid = *(volatile __u64 *)&ctx[0];
	struct fs_member *seen;
	struct fs_oom *e;

	if (!any_run())
		return 0;
	seen = bpf_map_lookup_elem(&members, &pid);
	if (!seen)
		return 0;
	struct fs_run_cfg run = { .slot = seen->slot, .epoch = seen->epoch };

	e = event_new(&run, FS_OOM, sizeof(*e));
	if (!e)
		return 0;
	e->hdr.cgroup_id = seen->cgroup_id;
	e->hdr.pid = pid;
	e->hdr.tid = pid;
	event_done(e, false);
	return 0;
}
