/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * What the entries of a run's table say of a file: by its path, its inode, and the folders around it.
 *
 * A path is the kernel's own (d_path): symbolic links, `..`, and /proc/self/fd lead to the same. Other names of the same
 * thing (hard links, bind mounts, a root of its own) are found by inode, of each path that existed when the run began; of a
 * folder, by going up from the file. Out of such a folder nothing is moved or linked.
 */
/* Room to resolve a path in: too large for the stack. Programs can be preempted, so a place is taken, not a CPU's own. */
#define ROOMS 64
#define ROOM_TRIES 8

struct room {
	__u64 taken;
	__u32 left;  /* of a name that is being read, see dns.h */
	__u32 n;
	__u32 ended;
	__u32 pad;
	struct fs_path_key key;
	char path[4096];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ROOMS);
	__type(key, __u32);
	__type(value, struct room);
} rooms SEC(".maps");

INLINE struct room *room_take(void)
{
	__u32 first = bpf_get_smp_processor_id() * 2;

	for (int i = 0; i < ROOM_TRIES; i++) {
		__u32 at = (first + i) % ROOMS;
		struct room *r = bpf_map_lookup_elem(&rooms, &at);

		if (r && __sync_val_compare_and_swap(&r->taken, 0, 1) == 0)
			return r;
	}
	return NULL;
}

INLINE void room_give(struct room *r)
{
	__sync_fetch_and_and(&r->taken, 0);
}

union effects {
	struct fs_effects e;
	__u32 word;
};

INLINE void effects_max(union effects *to, const struct fs_effects *from)
{
	if (from->exec > to->e.exec)
		to->e.exec = from->exec;
	if (from->map > to->e.map)
		to->e.map = from->map;
	if (from->read > to->e.read)
		to->e.read = from->read;
	if (from->write > to->e.write)
		to->e.write = from->write;
}

/* What the entries say of the path that begins AT in the room, as a word. Not SHARED: older kernels know a key in a map only from the
 * map. */
static __noinline int path_effects_at(__u32 table, struct room *r, __u32 at)
{
	struct fs_effects *e;
	long n;

	if (!r)
		return 0;
	n = bpf_probe_read_kernel_str(r->key.path, sizeof(r->key.path), r->path + (at & (sizeof(r->path) - 1)));
	if (n < 0)
		return 0;
	r->key.table = table;
	r->key.prefixlen = 32 + 8 * (__u32)n;
	e = bpf_map_lookup_elem(&paths, &r->key);
	return e ? *(int *)e : 0;
}

INLINE int path_effects(__u32 table, struct room *r)
{
	return path_effects_at(table, r, 0);
}

SHARED int inode_effects(__u32 table, __u32 what, __u64 ino, __u64 dev)
{
	struct fs_key k = { .table = table, .what = what, .a = ino, .b = dev };
	struct fs_effects *e = bpf_map_lookup_elem(&keys, &k);

	return e ? *(int *)e : 0;
}

/* Where the kernel knows a hook's argument as a pointer: SHARED functions take numbers. */
INLINE __u64 number_of(__u64 pointer)
{
	volatile __u64 kept = pointer;
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), (void *)&kept);
	return number;
}

#define TREE_DEPTH 64
#define EACH_BYTE 0x01010101U

/* Effects of which each has set all lower bits too, so that OR gives the stricter of two without a branch: with branches the
 * loop below would have more ways through it than a verifier can look at. */
INLINE __u32 filled(__u32 word)
{
	__u32 low = word & EACH_BYTE, high = word >> 1 & EACH_BYTE;

	return (low | high) | high << 1 | (low & high) << 2;
}

INLINE __u32 unfilled(__u32 word)
{
	return (word & EACH_BYTE) + (word >> 1 & EACH_BYTE) + (word >> 2 & EACH_BYTE);
}

/* What the entries say of the folders around the dentry, itself included, as a word. Mounts do not matter: the way up is
 * within the file system. What lies too deep to be told meets the strictest of all. */
SHARED int tree_effects(__u32 table, __u64 dentry)
{
	__u32 all = 0;

	for (int i = 0; i < TREE_DEPTH; i++) {
		struct dentry *d = (struct dentry *)dentry;
		__u64 up = (__u64)BPF_CORE_READ(d, d_parent);

		all |= filled(inode_effects(table, FS_KEY_TREE, BPF_CORE_READ(d, d_inode, i_ino),
					    BPF_CORE_READ(d, d_inode, i_sb, s_dev)));
		if (!up || up == dentry)
			return unfilled(all);
		dentry = up;
	}
	return inode_effects(table, FS_KEY_TREE, 0, ~0ULL);
}

/* The path of a file where bpf_d_path may not be called: its names are written into the room from CLIMB_END towards the beginning.
 * Behind CLIMB_END one name is kept. */
#define CLIMB_END 3840
#define CLIMB_STEPS 256

struct climb {
	__u64 dentry;
	__u64 mnt;
	__u64 root_dentry;
	__u64 root_mnt;
	struct room *r;
	__u32 at;
	__u32 whole;
};

static long climb_step(__u64 i, struct climb *c)
{
	__u64 dentry = c->dentry, mnt = c->mnt;
	__u64 up = (__u64)BPF_CORE_READ((struct dentry *)dentry, d_parent);
	/* A memfd is in no folder. */
	bool lone = !i && up == dentry;
	__u32 at = c->at;
	long n;

	if (dentry == c->root_dentry && mnt == c->root_mnt) {
		c->whole = 1;
		return 1;
	}
	if (!lone && (up == dentry || dentry == (__u64)BPF_CORE_READ((struct vfsmount *)mnt, mnt_root))) {
		struct mount *m = (struct mount *)(mnt - bpf_core_field_offset(struct mount, mnt));
		__u64 above = (__u64)BPF_CORE_READ(m, mnt_parent);

		if (!above || above == (__u64)m) {
			c->whole = 1;
			return 1;
		}
		c->dentry = (__u64)BPF_CORE_READ(m, mnt_mountpoint);
		c->mnt = above + bpf_core_field_offset(struct mount, mnt);
		return 0;
	}
	n = bpf_probe_read_kernel_str(c->r->path + CLIMB_END, 256, BPF_CORE_READ((struct dentry *)dentry, d_name.name));
	if (n < 2 || n > 256)
		return 1;
	at -= n;
	if (at >= CLIMB_END)
		return 1;
	c->r->path[at] = '/';
	n--;
	barrier_var(n);
	bpf_probe_read_kernel(c->r->path + at + 1, n & 255, c->r->path + CLIMB_END);
	c->at = at;
	c->dentry = up;
	c->whole = lone;
	return lone;
}

/* Where the path of the file begins in the room; with its beginning missing, it does not begin with a root. */
static __noinline int file_path(struct room *r, __u64 file, __u64 task)
{
	struct climb c = { .r = r, .at = CLIMB_END };

	if (!r)
		return CLIMB_END;
	c.dentry = (__u64)BPF_CORE_READ((struct file *)file, f_path.dentry);
	c.mnt = (__u64)BPF_CORE_READ((struct file *)file, f_path.mnt);
	c.root_dentry = (__u64)BPF_CORE_READ((struct task_struct *)task, fs, root.dentry);
	c.root_mnt = (__u64)BPF_CORE_READ((struct task_struct *)task, fs, root.mnt);
	bpf_loop(CLIMB_STEPS, climb_step, &c, 0);
	r->path[CLIMB_END] = 0;
	r->left = c.whole;
	return c.at;
}

/* The inode entry that an exec meets, from the hook that judges it to the event that reports it; by struct linux_binprm, which is the same
 * from the beginning of the exec to its end. Where it is full, the hook reports for itself. */
struct exec_entry {
	__u64 ino;
	__u64 dev;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct exec_entry);
} exec_entries SEC(".maps");

enum exec_kind { KIND_FILE, KIND_MEMFD, KIND_DELETED, KIND_SCRIPT };

/* memfd or deleted: what has no name can only be told by its inode. */
INLINE __u8 kind_of_file(__u64 file)
{
	struct file *f = (struct file *)file;
	const unsigned char *name;
	char head[6] = {};

	if (BPF_CORE_READ(f, f_inode, i_nlink))
		return KIND_FILE;
	name = BPF_CORE_READ(f, f_path.dentry, d_name.name);
	bpf_probe_read_kernel_str(head, sizeof(head), name);
	return head[0] == 'm' && head[1] == 'e' && head[2] == 'm' && head[3] == 'f' && head[4] == 'd' ? KIND_MEMFD :
													 KIND_DELETED;
}

/* What the entries say of what has no path at hand: by inode, its own and those of the folders around it. */
INLINE union effects dentry_effects(struct fs_run_cfg *run, __u64 dentry)
{
	struct dentry *d = (struct dentry *)dentry;
	union effects all = { .word = 0 }, more;

	if (run->flags & FS_RUN_INODES)
		all.word = inode_effects(run->table, FS_KEY_INODE, BPF_CORE_READ(d, d_inode, i_ino),
					 BPF_CORE_READ(d, d_inode, i_sb, s_dev));
	if (run->flags & FS_RUN_TREES) {
		more.word = tree_effects(run->table, number_of(dentry));
		effects_max(&all, &more.e);
	}
	return all;
}

INLINE void same_file(struct op *o, __u64 file)
{
	struct file *f = (struct file *)file;

	o->key_a = BPF_CORE_READ(f, f_inode, i_ino);
	o->key_b = BPF_CORE_READ(f, f_inode, i_sb, s_dev);
}

/* The bit of filled() that is set where USE meets at least EFFECT, which is not none. */
enum use { USE_EXEC, USE_MAP, USE_READ, USE_WRITE };
#define MEETS(use, effect) (1U << (8 * (use) + (effect) - 1))

/* Which inode's entry says so goes to b and c: the name that was used may be none that a rule knows. */
SHARED int entry_of(struct fs_run_cfg *run, __u64 dentry, __u32 meets, struct op *o)
{
	struct dentry *d = (struct dentry *)dentry;

	if (!run || !o)
		return 0;
	o->b = BPF_CORE_READ(d, d_inode, i_ino);
	o->c = BPF_CORE_READ(d, d_inode, i_sb, s_dev);
	if (filled(inode_effects(run->table, FS_KEY_INODE, o->b, o->c)) & meets)
		return 0;
	for (int i = 0; i < TREE_DEPTH; i++) {
		__u64 up;

		d = (struct dentry *)dentry;
		o->b = BPF_CORE_READ(d, d_inode, i_ino);
		o->c = BPF_CORE_READ(d, d_inode, i_sb, s_dev);
		if (filled(inode_effects(run->table, FS_KEY_TREE, o->b, o->c)) & meets)
			return 0;
		up = (__u64)BPF_CORE_READ(d, d_parent);
		if (!up || up == dentry)
			break;
		dentry = up;
	}
	o->b = o->c = 0; /* by name, or by a list of what is allowed */
	return 0;
}

INLINE void tell_entry(struct fs_run_cfg *run, __u64 dentry, __u32 meets, struct op *o)
{
	entry_of(run, number_of(dentry), meets, o);
}
