/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Device files, by number, whatever they are called: opened or made. The kernel asks at open and mknod only, so a
 * descriptor that is open already goes on working.
 */
#define DEVICE_ANY_MINOR (~0ULL)

/* For programs on a cgroup, which may not send signals. */
SHARED int settle_on_cgroup(struct fs_run_cfg *run, struct op *o)
{
	return run && o ? settled(run, o) : 0;
}

/* enum fs_effect of such an access to a device. A rule on reading has no say where it is opened for writing only, nor the reverse;
 * both have where it is made. KIND: character or block above the major number. */
INLINE __u8 device_effect(__u32 table, __u64 kind, __u32 minor, __u32 access)
{
	struct fs_key k = { .table = table, .what = FS_KEY_DEVICE, .a = kind, .b = minor };
	struct fs_effects *e = bpf_map_lookup_elem(&keys, &k);
	__u8 read, write;

	if (!e) {
		k.b = DEVICE_ANY_MINOR;
		e = bpf_map_lookup_elem(&keys, &k);
	}
	if (!e)
		return 0;
	read = access & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_MKNOD) ? e->read : 0;
	write = access & (BPF_DEVCG_ACC_WRITE | BPF_DEVCG_ACC_MKNOD) ? e->write : 0;
	return read > write ? read : write;
}

SEC("cgroup/dev")
int fs_device(struct bpf_cgroup_dev_ctx *ctx)
{
	struct fs_run_cfg *run = run_of_cgroup(cgroup_of(bpf_get_current_task_btf()));
	__u32 access = ctx->access_type >> 16, type = ctx->access_type & 0xffff;
	struct op o = { .what = FS_OP_DEVICE, .via = FS_VIA_CGROUP };

	if (!run)
		return ALLOW;
	o.a = (__u64)type << 32 | ctx->major;
	o.b = ctx->minor;
	o.c = access & BPF_DEVCG_ACC_MKNOD ? 2 : !!(access & BPF_DEVCG_ACC_WRITE);
	o.effect = device_effect(run->table, o.a, ctx->minor, access);
	return o.effect && settle_on_cgroup(run, &o) ? DENY : ALLOW;
}

/* ---- the caller of what stopped the run ------------------------------------------------------------ */

/* Programs on a cgroup may send no signal. The kernel's functions that run them return in the same call: there whoever belongs
 * to a latched run is stopped before it is back in user space. Attached only while a rule on such a call stops its run. */
SHARED int stop_latched(void)
{
	struct fs_run_cfg *run = run_of_current();
	__u32 slot, *l;

	if (!run)
		return 0;
	slot = run->slot;
	l = bpf_map_lookup_elem(&latches, &slot);
	/* Not what the daemon's absence holds: it could not let go of whom it stopped. */
	if (l && *(volatile __u32 *)l & FS_LATCH_STOP)
		stop_caller(run);
	return 0;
}

SEC("fexit/__cgroup_bpf_run_filter_sock_addr")
int fs_stop_address(void *ctx)
{
	return stop_latched();
}

SEC("fexit/__cgroup_bpf_check_dev_permission")
int fs_stop_device(void *ctx)
{
	return stop_latched();
}
