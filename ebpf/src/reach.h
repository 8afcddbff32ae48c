/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Reaching for failsafe's own things (own.h): hooks on signals, names and mounts. What a rule says of mounts is judged here too.
 */
#define MS_REMOUNT 0x20
#define MS_PROPAGATION 0x1e0000 /* unbindable, private, slave, shared */

/* The daemon, or one that it started. */
INLINE int daemon_guard(struct task_struct *p, __u32 what)
{
	struct fs_run_cfg *run;
	__u32 daemon = daemon_tgid();

	if (!daemon || ((__u32)p->tgid != daemon && (__u32)p->real_parent->tgid != daemon))
		return 0;
	run = run_of_current();
	return run && run->flags & FS_RUN_PROTECT ? protect(run, what, p->tgid) : 0;
}

#define DAEMON_GUARD(hook, what)                                    \
	SEC("lsm/" #hook)                                           \
	int BPF_PROG(fs_lsm_##hook, struct task_struct *p)          \
	{                                                           \
		return daemon_guard(p, what);                       \
	}

DAEMON_GUARD(task_kill, FS_PROTECT_SIGNAL)
DAEMON_GUARD(task_setrlimit, FS_PROTECT_PROCESS)
DAEMON_GUARD(task_setnice, FS_PROTECT_PROCESS)
DAEMON_GUARD(task_setioprio, FS_PROTECT_PROCESS)
DAEMON_GUARD(task_setscheduler, FS_PROTECT_PROCESS)

#define REMOVAL_GUARD(hook)                                                         \
	SEC("lsm/" #hook)                                                           \
	int BPF_PROG(fs_lsm_##hook, struct inode *dir, struct dentry *dentry)       \
	{                                                                           \
		struct fs_run_cfg *run = run_of_current();                          \
											    \
		return bpffs_guard(run, (__u64)dentry) ?: own_guard(run, (__u64)dentry); \
	}

REMOVAL_GUARD(inode_unlink)
REMOVAL_GUARD(inode_rmdir)

SEC("lsm/inode_rename")
int BPF_PROG(fs_lsm_inode_rename, struct inode *dir, struct dentry *old, struct inode *new_dir, struct dentry *new)
{
	struct fs_run_cfg *run = run_of_current();
	int result = bpffs_guard(run, (__u64)old) ?: own_guard(run, (__u64)old) ?: own_guard(run, (__u64)new);

	return result || !run ? result : moves(run, (__u64)old, (__u64)new);
}

SEC("lsm/inode_link")
int BPF_PROG(fs_lsm_inode_link, struct dentry *old, struct inode *dir, struct dentry *new)
{
	struct fs_run_cfg *run = run_of_current();
	int result = own_guard(run, (__u64)old) ?: own_guard(run, (__u64)new);

	return result || !run ? result : moves(run, (__u64)old, (__u64)new);
}

#define FOLDER_GUARD(hook)                                                  \
	SEC("lsm/" #hook)                                                   \
	int BPF_PROG(fs_lsm_##hook, const struct path *path)                \
	{                                                                   \
		return own_guard(run_of_current(), (__u64)path->dentry);    \
	}

FOLDER_GUARD(path_mknod) /* every file that open makes, too */
FOLDER_GUARD(path_mkdir)
FOLDER_GUARD(path_symlink)
FOLDER_GUARD(path_chmod)
FOLDER_GUARD(path_chown)

/* ---- mounts --------------------------------------------------------------------------------------- */

/* Something is to be mounted there. */
INLINE int cover(struct fs_run_cfg *run, __u64 dentry)
{
	int result = bpffs_guard(run, dentry);

	if (result || !(run->flags & FS_RUN_PROTECT) || !own_effects(number_of(dentry)))
		return result;
	return protect_dentry(run, FS_PROTECT_FILES, dentry);
}

SEC("lsm/sb_mount")
int BPF_PROG(fs_lsm_sb_mount, const char *name, const struct path *path, const char *type, unsigned long flags)
{
	struct fs_run_cfg *run = run_of_current();
	int result = 0;

	if (!run)
		return 0;
	/* How a mount propagates, or is written to, covers nothing: but of pins it takes them away. */
	if (!(flags & (MS_REMOUNT | MS_PROPAGATION)))
		result = cover(run, (__u64)path->dentry);
	else if (flags & MS_REMOUNT)
		result = bpffs_guard(run, (__u64)path->dentry);
	return result ?: call(run, FS_SYS_MOUNT);
}

SEC("lsm/move_mount")
int BPF_PROG(fs_lsm_move_mount, const struct path *from, const struct path *to)
{
	struct fs_run_cfg *run = run_of_current();

	return run ? cover(run, (__u64)to->dentry) ?: call(run, FS_SYS_MOVE_MOUNT) : 0;
}

SEC("lsm/sb_umount")
int BPF_PROG(fs_lsm_sb_umount, struct vfsmount *mnt)
{
	struct fs_run_cfg *run = run_of_current();

	return run ? bpffs_guard(run, (__u64)mnt->mnt_root) ?: call(run, FS_SYS_UMOUNT2) : 0;
}
