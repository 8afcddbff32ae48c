/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Files, refused before they are used: executed, opened, mapped executable. LSM hooks are called for every process of the
 * host: whoever is in no run returns after the look-up.
 *
 * A run that is latched, by a stop rule or for want of a daemon, may neither execute nor open anything.
 */
#define FMODE_READ 0x1
#define FMODE_WRITE 0x2
#define VM_EXEC 0x4
#define CGROUP2_SUPER_MAGIC 0x63677270

/* What the entries say of a file by its inodes and, with the room's path filled, what they say by name. */
INLINE union effects file_effects(struct fs_run_cfg *run, __u64 file, struct room *r)
{
	union effects all = dentry_effects(run, (__u64)BPF_CORE_READ((struct file *)file, f_path.dentry)), more;

	if (run->flags & FS_RUN_PATHS && r) {
		more.word = path_effects(run->table, r);
		effects_max(&all, &more.e);
	}
	return all;
}

/* How long a path is with its NUL. One that cannot be told (no room, longer than 4096) is refused where entries may forbid it: it may be
 * one of them. */
INLINE long resolved(struct path *path, struct room *r)
{
	long n = r ? bpf_d_path(path, r->path, sizeof(r->path)) : 0;

	return n > 0 ? n : 0;
}

/* Whether the name that was given to execve is the resolved path in the room, with no link on the way. */
static __noinline int given_is_resolved(struct room *r, __u64 filename)
{
	char *given;

	if (!r)
		return 0;
	given = r->path + CLIMB_END;
	if (bpf_probe_read_kernel_str(given, FS_PATH_MAX, (void *)filename) <= 0)
		return 0;
	for (int i = 0; i < FS_PATH_MAX; i++) {
		if (r->path[i] != given[i])
			return 0;
		if (!given[i])
			return 1;
	}
	return 0;
}

/* What is only observed, and is executed in the end, is reported once: by its exec, which says what was executed and with which
 * arguments. It shows the given name, the resolved path of a program that is no script, and the entry that is kept here. What it would
 * not show (a script by another name, a path too long for it) is reported at this hook. An exec that fails in the end is not reported. */
INLINE bool left_to_exec(struct fs_run_cfg *run, struct linux_binprm *bprm, struct room *r, long n, const struct op *o)
{
	struct exec_entry entry = { .ino = o->b, .dev = o->c };
	__u64 key = (__u64)bprm;
	struct fs_counters *c;
	char magic[4] = {};

	if (!(run->flags & FS_RUN_EXEC_ONCE) || !r || n <= 0 || n >= FS_FILE_MAX)
		return false;
	bpf_probe_read_kernel(magic, sizeof(magic), bprm->buf);
	if (!(magic[0] == 0x7f && magic[1] == 'E' && magic[2] == 'L' && magic[3] == 'F') &&
	    !given_is_resolved(r, (__u64)BPF_CORE_READ(bprm, filename)))
		return false;
	if (bpf_map_update_elem(&exec_entries, &key, &entry, BPF_NOEXIST))
		return false;
	c = counters_of(run->slot);
	if (c)
		__sync_fetch_and_add(&c->observed_ops, 1);
	return true;
}

SEC("lsm/bprm_check_security")
int BPF_PROG(fs_lsm_bprm_check_security, struct linux_binprm *bprm)
{
	struct fs_run_cfg *run = run_of_current();
	struct op o = { .what = FS_OP_EXEC, .via = FS_VIA_LSM };
	__u64 file, interp, filename;
	bool is_held;
	struct room *r;
	__u32 point;
	int result = 0;
	long n;

	if (!run)
		return 0;
	file = (__u64)bprm->file;
	same_file(&o, file);
	is_held = held(run) & FS_LATCH_STOP;
	interp = (__u64)BPF_CORE_READ(bprm, interp);
	filename = (__u64)BPF_CORE_READ(bprm, filename);
	o.kind = kind_of_file(file);
	if (o.kind == KIND_FILE && interp != filename)
		o.kind = KIND_SCRIPT;
	if (o.kind != KIND_FILE) {
		point = o.kind == KIND_MEMFD ? FS_POINT_EXEC_MEMFD :
			o.kind == KIND_DELETED ? FS_POINT_EXEC_DELETED : FS_POINT_EXEC_SCRIPT;
		/* Seen executing, it is told with its arguments by the tracepoint. */
		if (((run->deny | run->stop) >> point) & 1)
			o.effect = effect_of(run, point);
	}
	if (!(run->flags & FS_RUN_EXECS) && o.effect == FS_EFFECT_NONE && !is_held)
		return 0;
	/* Where an exec failed, its place in memory may be another's now. */
	if (run->flags & FS_RUN_EXEC_ONCE && interp == filename) {
		__u64 key = (__u64)bprm;

		bpf_map_delete_elem(&exec_entries, &key);
	}
	r = room_take();
	n = resolved(&bprm->file->f_path, r);
	if (n) {
		__u8 effect = file_effects(run, file, r).e.exec;

		if (effect > o.effect) {
			o.effect = effect;
			tell_entry(run, (__u64)bprm->file->f_path.dentry, MEETS(USE_EXEC, effect), &o);
			if (effect == FS_EFFECT_OBSERVE && !is_held && left_to_exec(run, bprm, r, n, &o))
				o.effect = FS_EFFECT_NONE;
		}
		o.path = r->path;
	} else if (run->flags & FS_RUN_EXECS) {
		o.effect = FS_EFFECT_DENY;
	}
	if (is_held)
		refuse_held_op(run, &o);
	if (o.effect)
		result = settle(run, &o);
	if (r)
		room_give(r);
	return result;
}

/* A write to a file of a cgroup: allowed only strictly below the run's own, where thawing or moving stays inside. */
INLINE bool outside_own_cgroups(struct fs_run_cfg *run, __u64 file)
{
	__u64 dir = (__u64)BPF_CORE_READ((struct file *)file, f_path.dentry, d_parent);

	for (int i = 0; i < 16; i++) {
		__u64 up = (__u64)BPF_CORE_READ((struct dentry *)dir, d_parent);

		if (!up || up == dir)
			return true;
		if (BPF_CORE_READ((struct dentry *)up, d_inode, i_ino) == run->root_id)
			return false;
		dir = up;
	}
	return true;
}

SEC("lsm/file_open")
int BPF_PROG(fs_lsm_file_open, struct file *file)
{
	struct fs_run_cfg *run = run_of_current();
	struct op o = { .what = FS_OP_OPEN, .via = FS_VIA_LSM };
	bool write, is_held;
	struct room *r;
	int result = 0;

	if (!run)
		return 0;
	write = file->f_mode & FMODE_WRITE;
	o.a = write;
	is_held = held(run) & FS_LATCH_STOP;
	if (run->flags & FS_RUN_PROTECT) {
		__u64 magic = BPF_CORE_READ(file, f_inode, i_sb, s_magic);

		if (magic == BPF_FS_MAGIC)
			return protect(run, FS_PROTECT_BPFFS, BPF_CORE_READ(file, f_inode, i_ino));
		if (write) {
			result = own_guard(run, (__u64)file->f_path.dentry);
			if (result)
				return result;
		}
		if (magic == PROC_SUPER_MAGIC && write && of_daemon((__u64)file->f_inode))
			return protect(run, FS_PROTECT_PROCESS, BPF_CORE_READ(file, f_inode, i_ino));
		if (magic == CGROUP2_SUPER_MAGIC && write && outside_own_cgroups(run, (__u64)file))
			return protect(run, FS_PROTECT_CGROUP, BPF_CORE_READ(file, f_inode, i_ino));
	}
	/* Most opens end here: a run without a rule on them pays for no path. */
	if (!(run->flags & FS_RUN_OPENS) && !is_held)
		return 0;
	r = room_take();
	if (resolved(&file->f_path, r)) {
		union effects all = file_effects(run, (__u64)file, r);
		enum use use = write ? USE_WRITE : USE_READ;

		/* For writing is for reading too, unless it is for writing alone. */
		if (write)
			o.effect = all.e.write;
		if ((!write || file->f_mode & FMODE_READ) && all.e.read > o.effect) {
			o.effect = all.e.read;
			use = USE_READ;
		}
		if (o.effect)
			tell_entry(run, (__u64)file->f_path.dentry, MEETS(use, o.effect), &o);
		o.path = r->path;
	} else if (run->flags & FS_RUN_OPENS) {
		o.effect = FS_EFFECT_DENY;
	}
	same_file(&o, (__u64)file);
	if (is_held)
		refuse_held_op(run, &o);
	if (o.effect)
		result = settle(run, &o);
	if (r)
		room_give(r);
	return result;
}

/* Refuses a change to the file behind the dentry: its own name, without the folders, is what is told. IS_HELD: because the run is held,
 * where the EFFECT of its policy would not. */
INLINE int change(struct fs_run_cfg *run, __u64 dentry, __u8 effect, bool is_held)
{
	struct op o = { .what = FS_OP_OPEN, .via = FS_VIA_LSM, .effect = effect, .a = 1 };
	struct dentry *d = (struct dentry *)dentry;
	struct room *r;
	int result;

	o.key_a = BPF_CORE_READ(d, d_inode, i_ino);
	o.key_b = BPF_CORE_READ(d, d_inode, i_sb, s_dev);
	if (effect)
		tell_entry(run, dentry, EACH_BYTE << (effect - 1), &o);
	if (is_held)
		refuse_held_op(run, &o);
	r = room_take();
	if (r) {
		const unsigned char *name = BPF_CORE_READ(d, d_name.name);

		bpf_probe_read_kernel_str(r->path, FS_PATH_MAX, name);
		o.path = r->path;
	}
	result = settle(run, &o);
	if (r)
		room_give(r);
	return result;
}

/* A change without an open. */
SEC("lsm/path_truncate")
int BPF_PROG(fs_lsm_path_truncate, const struct path *path)
{
	struct fs_run_cfg *run = run_of_current();
	__u64 dentry;
	__u8 effect = FS_EFFECT_NONE;
	bool is_held;
	int result;

	if (!run)
		return 0;
	dentry = (__u64)BPF_CORE_READ(path, dentry);
	is_held = held(run) & FS_LATCH_STOP;
	result = own_guard(run, dentry);
	if (result)
		return result;
	if (run->flags & FS_RUN_OPENS)
		effect = dentry_effects(run, dentry).e.write;
	return effect || is_held ? change(run, dentry, effect, is_held) : 0;
}

INLINE bool weaker(__u8 there, __u8 here)
{
	return here >= FS_EFFECT_DENY && there < here;
}

/* The dentry gets another place: refused where what is forbidden of it would not be forbidden there. */
INLINE int moves(struct fs_run_cfg *run, __u64 from, __u64 to)
{
	union effects here, there;
	__u8 effect;

	if (!(run->flags & FS_RUN_TREES))
		return 0;
	here.word = tree_effects(run->table, number_of(from));
	if (!here.word)
		return 0;
	there.word = tree_effects(run->table, number_of(to));
	if (!weaker(there.e.exec, here.e.exec) && !weaker(there.e.map, here.e.map) &&
	    !weaker(there.e.read, here.e.read) && !weaker(there.e.write, here.e.write))
		return 0;
	effect = here.e.exec;
	if (here.e.read > effect)
		effect = here.e.read;
	if (here.e.write > effect)
		effect = here.e.write;
	return change(run, from, effect, false);
}

INLINE int memory(struct fs_run_cfg *run, __u32 point)
{
	struct op o = { .what = FS_OP_MEMORY, .via = FS_VIA_LSM, .effect = effect_of(run, point), .a = point };

	return o.effect ? settle(run, &o) : 0;
}

/* The program that is being executed, which bprm_check_security has judged: what is mapped of it before its code has a place. */
INLINE bool being_executed(__u64 file)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return (__u64)BPF_CORE_READ(task, mm, exe_file) == file && !BPF_CORE_READ(task, mm, end_code);
}

#define MEMORY_POINTS (POINT(FS_POINT_MEM_ANONYMOUS) | POINT(FS_POINT_MEM_MEMFD) | POINT(FS_POINT_MEM_WRITE_EXEC))

SEC("lsm/mmap_file")
int BPF_PROG(fs_lsm_mmap_file, struct file *file, unsigned long reqprot, unsigned long prot)
{
	struct op o = { .what = FS_OP_MAP, .via = FS_VIA_LSM };
	struct fs_run_cfg *run;
	struct room *r;
	__u64 f = 0;
	int result;

	if (!(prot & PROT_EXEC))
		return 0;
	run = run_of_current();
	if (!run)
		return 0;
	/* The verifier takes an argument of an LSM hook as not NULL, which this one may be. */
	bpf_probe_read_kernel(&f, sizeof(f), ctx);
	if (prot & PROT_WRITE) {
		result = memory(run, FS_POINT_MEM_WRITE_EXEC);
		if (result)
			return result;
	}
	if (!f)
		return memory(run, FS_POINT_MEM_ANONYMOUS);
	if (kind_of_file(f) != KIND_FILE) {
		result = memory(run, FS_POINT_MEM_MEMFD);
		if (result)
			return result;
	}
	if (!(run->flags & FS_RUN_MAPS))
		return 0;
	r = room_take();
	/* Not refused where it cannot be told, as a program must have its libraries: its opening was judged. */
	if (resolved(&file->f_path, r)) {
		o.effect = file_effects(run, f, r).e.map;
		if (o.effect == FS_EFFECT_OBSERVE && being_executed(f))
			o.effect = FS_EFFECT_NONE;
		if (o.effect)
			tell_entry(run, (__u64)file->f_path.dentry, MEETS(USE_MAP, o.effect), &o);
		o.path = r->path;
	}
	same_file(&o, f);
	result = o.effect ? settle(run, &o) : 0;
	if (r)
		room_give(r);
	return result;
}

SEC("lsm/file_mprotect")
int BPF_PROG(fs_lsm_file_mprotect, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)
{
	struct fs_run_cfg *run;
	__u64 f;
	int result;

	if (!(prot & PROT_EXEC))
		return 0;
	run = run_of_current();
	if (!run || !((run->watch | run->deny | run->stop) & MEMORY_POINTS))
		return 0;
	if (prot & PROT_WRITE) {
		result = memory(run, FS_POINT_MEM_WRITE_EXEC);
		if (result)
			return result;
	}
	if (BPF_CORE_READ(vma, vm_flags) & VM_EXEC)
		return 0;
	f = (__u64)BPF_CORE_READ(vma, vm_file);
	if (!f)
		return memory(run, FS_POINT_MEM_ANONYMOUS);
	return kind_of_file(f) == KIND_FILE ? 0 : memory(run, FS_POINT_MEM_MEMFD);
}
