/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * How much may leave, by class of destination: the longest prefix that holds the destination names the class. Beyond
 * its bytes, or faster than its rate, packets are dropped.
 *
 * The rate is kept by one number, the instant at which all that was sent would have been due (virtual scheduling, ITU-T
 * I.371): a packet passes while that is no more than BURST_NS ahead. A packet larger than the burst passes too, and those
 * after it wait the longer.
 */
#define BURST_NS 100000000ULL
#define SECOND_NS 1000000000ULL

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct fs_lpm4);
	__type(value, __u32);
} classes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct fs_lpm6);
	__type(value, __u32);
} classes6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_MAX_RUNS * FS_MAX_BUDGETS);
	__type(key, __u32);
	__type(value, struct fs_budget);
} budgets SEC(".maps");

INLINE __u32 class_of(__u32 table, const struct dst *d)
{
	__u32 *class;

	if (d->family == 4) {
		struct fs_lpm4 k = { .prefixlen = 64, .table = table };

		__builtin_memcpy(k.addr, d->a, 4);
		class = bpf_map_lookup_elem(&classes4, &k);
	} else {
		struct fs_lpm6 k = { .prefixlen = 160, .table = table };

		__builtin_memcpy(k.addr, d->a, 16);
		class = bpf_map_lookup_elem(&classes6, &k);
	}
	return class ? *class % FS_MAX_BUDGETS : 0;
}

INLINE bool too_fast(struct fs_budget *b, __u32 len)
{
	__u64 now = bpf_ktime_get_ns(), due, start;

	for (int i = 0; i < 4; i++) {
		due = *(volatile __u64 *)&b->due_ns;
		if ((__s64)(due - now) > (__s64)BURST_NS)
			return true;
		start = (__s64)(due - now) > 0 ? due : now;
		if (__sync_val_compare_and_swap(&b->due_ns, due, start + len * SECOND_NS / b->rate) == due)
			return false;
	}
	return true; /* others were faster four times: they had the room */
}

/* CLASS_BYTES: the class above 56 bits of what was spent; its highest bit: it is told each time, as all that latches the run. */
#define TOLD_ALWAYS (1ULL << 63)

SHARED int spent_event(struct fs_run_cfg *run, struct __sk_buff *skb, const struct dst *d, __u64 class_bytes)
{
	__u64 class = (class_bytes & ~TOLD_ALWAYS) >> 56;
	struct op o = { .what = FS_OP_BUDGET, .key_a = class };
	struct fs_op *e;
	__u32 n = 0;

	if (!run || !d || (!(class_bytes & TOLD_ALWAYS) && op_repeated(run, &o, FS_DENIED, &n)))
		return 0;
	e = event_new(run, FS_OP, sizeof(*e));
	if (!e)
		return 0;
	e->hdr.cgroup_id = bpf_skb_cgroup_id(skb);
	e->what = FS_OP_BUDGET;
	e->verdict = run->flags & FS_RUN_ENFORCE ? FS_DENIED : FS_OBSERVED;
	e->via = FS_VIA_CGROUP;
	e->kind = 0;
	e->held = FS_HELD_NOT;
	e->repeats = n;
	e->path_len = 0;
	e->a = class;
	e->b = class_bytes & 0xffffffffffffffULL;
	e->c = d->family;
	__builtin_memcpy(e->path + FS_PATH_MAX - 16, d->a, 16);
	event_done(e, false);
	return 0;
}

/* Counts the packet, and says whether it is too much. */
INLINE bool beyond_budget(struct fs_run_cfg *run, struct __sk_buff *skb, const struct dst *d, __u32 segs)
{
	__u32 class = class_of(run->table, d), at = run->slot * FS_MAX_BUDGETS + class, len = skb->len;
	struct fs_budget *b = class ? bpf_map_lookup_elem(&budgets, &at) : NULL;
	struct fs_counters *c;

	if (!b)
		return false;
	if (!(b->bytes && b->spent + len > b->bytes) && !(b->rate && too_fast(b, len))) {
		__sync_fetch_and_add(&b->spent, len);
		return false;
	}
	spent_event(run, skb, d, (b->stop ? TOLD_ALWAYS : 0) | (__u64)class << 56 | (b->spent & 0xffffffffffffffULL));
	if (!(run->flags & FS_RUN_ENFORCE)) {
		__sync_fetch_and_add(&b->spent, len);
		return false;
	}
	if (b->stop)
		latch_stop(run);
	__sync_fetch_and_add(&b->dropped, segs);
	c = counters_of(run->slot);
	if (c)
		__sync_fetch_and_add(&c->budget_drops, segs);
	return true;
}
