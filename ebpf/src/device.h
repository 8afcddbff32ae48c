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

SEC("cgroup/dev")
int fs_device(struct bpf_cgroup_dev_ctx *ctx)
{
	struct fs_run_cfg *run = run_of_cgroup(cgroup_of(bpf_get_current_task_btf()));
	__u32 access = ctx->access_type >> 16, type = ctx->access_type & 0xffff;
	struct fs_effects *e;
	struct fs_key k = {};
	struct op o = { .what = FS_OP_DEVICE, .via = FS_VIA_CGROUP };

	if (!run)
		return ALLOW;
	k.table = run->table;
	k.what = FS_KEY_DEVICE;
	k.a = (__u64)type << 32 | ctx->major;
	k.b = ctx->minor;
	e = bpf_map_lookup_elem(&keys, &k);
	if (!e) {
		k.b = DEVICE_ANY_MINOR;
		e = bpf_map_lookup_elem(&keys, &k);
	}
	if (!e)
		return ALLOW;
	o.a = k.a;
	o.b = ctx->minor;
	o.c = access & BPF_DEVCG_ACC_MKNOD ? 2 : !!(access & BPF_DEVCG_ACC_WRITE);
	o.effect = e->read;
	if (o.c && e->write > o.effect)
		o.effect = e->write;
	/* Opened for writing only, a rule on reading has no say. */
	if (!(access & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_MKNOD)))
		o.effect = e->write;
	return o.effect && settle_on_cgroup(run, &o) ? DENY : ALLOW;
}
