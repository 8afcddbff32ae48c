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

/* What the entries say of the path in the room, as a word. Not SHARED: older kernels know a key in a map only from the map. */
static __noinline int path_effects(__u32 table, struct room *r)
{
	struct fs_effects *e;
	long n;

	if (!r)
		return 0;
	n = bpf_probe_read_kernel_str(r->key.path, sizeof(r->key.path), r->path);
	if (n < 0)
		return 0;
	r->key.table = table;
	r->key.prefixlen = 32 + 8 * (__u32)n;
	e = bpf_map_lookup_elem(&paths, &r->key);
	return e ? *(int *)e : 0;
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
