/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * failsafe's own things, out of the reach of runs: the daemon, pins, and what the table OWN names, by inode: the folder of its
 * state with all below, its sockets, and the folders above them all, over which nothing is mounted. Permissions keep others
 * from them; this is for runs of root.
 */
#define OWN 0 /* no run has this table */
#define CAP_DAC_OVERRIDE 1
#define BPF_FS_MAGIC 0xcafe4a11
#define PROC_SUPER_MAGIC 0x9fa0

/* WHICH tells one from another of the same kind. */
INLINE int protect(struct fs_run_cfg *run, __u32 what, __u64 which)
{
	struct op o = {
		.what = FS_OP_PROTECT,
		.via = FS_VIA_LSM,
		.effect = FS_EFFECT_DENY,
		.a = what,
		.key_b = which,
	};

	return settle(run, &o);
}

INLINE __u32 daemon_tgid(void)
{
	__u32 zero = 0;
	struct fs_watchdog *w = bpf_map_lookup_elem(&watchdog, &zero);

	return w ? w->daemon_tgid : 0;
}

/* A file of /proc/PID of the daemon, by which its standing is changed. */
INLINE bool of_daemon(__u64 inode)
{
	__u64 proc = inode - __builtin_preserve_field_info(((struct proc_inode *)0)->vfs_inode, BPF_FIELD_BYTE_OFFSET);
	__u64 pid = (__u64)BPF_CORE_READ((struct proc_inode *)proc, pid);
	__u32 daemon = daemon_tgid();

	return daemon && pid && (__u32)BPF_CORE_READ((struct pid *)pid, numbers[0].nr) == daemon;
}

/* Permissions do not bind the caller. */
INLINE bool mighty(void)
{
	const struct cred *c = bpf_get_current_task_btf()->cred;

	return !c->euid.val || permitted(c) >> CAP_DAC_OVERRIDE & 1;
}

/* As a word: write, it is one of them; read, it lies above one. */
SHARED int own_effects(__u64 dentry)
{
	struct dentry *d = (struct dentry *)dentry;
	__u64 dev = BPF_CORE_READ(d, d_sb, s_dev);

	/* Most file systems hold none. */
	if (!inode_effects(OWN, FS_KEY_TREE, 0, dev))
		return 0;
	return inode_effects(OWN, FS_KEY_INODE, BPF_CORE_READ(d, d_inode, i_ino), dev) | tree_effects(OWN, dentry);
}

INLINE int protect_dentry(struct fs_run_cfg *run, __u32 what, __u64 dentry)
{
	return protect(run, what, BPF_CORE_READ((struct dentry *)dentry, d_inode, i_ino));
}

/* The dentry, or an entry of it, is to be changed. */
INLINE int own_guard(struct fs_run_cfg *run, __u64 dentry)
{
	union effects all;

	if (!run || !(run->flags & FS_RUN_PROTECT) || !mighty())
		return 0;
	all.word = own_effects(number_of(dentry));
	return all.e.write ? protect_dentry(run, FS_PROTECT_FILES, dentry) : 0;
}

/* Pins of failsafe, and of anybody: not for a run to unlink or rename. */
INLINE int bpffs_guard(struct fs_run_cfg *run, __u64 dentry)
{
	if (!run || !(run->flags & FS_RUN_PROTECT) ||
	    BPF_CORE_READ((struct dentry *)dentry, d_sb, s_magic) != BPF_FS_MAGIC)
		return 0;
	return protect_dentry(run, FS_PROTECT_BPFFS, dentry);
}
