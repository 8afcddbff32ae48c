/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * What the rules of a run say, and acting on it. Two maps hold all entries of all runs, told apart by the run's table:
 * `paths` by longest prefix, `keys` by exact number. A new set is built beside the old and put in force by the one
 * write of fs_run_cfg that names its table. Masks in fs_run_cfg hold what needs no entry: calls and points.
 */
#define EPERM 1
#define POINT(n) (1ULL << (n))
#define PROT_WRITE 0x2
#define PROT_EXEC 0x4
#define OP_REPEAT_NS 1000000000ULL

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct fs_path_key);
	__type(value, struct fs_effects);
} paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct fs_key);
	__type(value, struct fs_effects);
} keys SEC(".maps");

/* Processes that live, by slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, __u64);
} lives SEC(".maps");

/* Processes made in the current second, by slot: the second in the upper half. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, __u64);
} births SEC(".maps");

/* What was sent less than OP_REPEAT_NS ago. */
struct op_key {
	__u64 a;
	__u64 b;
	__u32 slot;
	__u32 what;
	__u32 verdict;
	__u32 epoch;
};

struct op_seen {
	__u64 at;
	__u64 suppressed;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct op_key);
	__type(value, struct op_seen);
} op_seens SEC(".maps");

/* An operation to be judged: what an fs_op will say. */
struct op {
	__u32 what;
	__u8 effect;
	__u8 via;
	__u8 kind;
	__u8 held; /* enum fs_held */
	__u64 a;
	__u64 b;
	__u64 c;
	__u64 key_a; /* what makes two of them the same */
	__u64 key_b;
	const char *path; /* in a room; may be NULL */
};

INLINE void lives_add(__u32 slot, __s64 n)
{
	__u64 *l = bpf_map_lookup_elem(&lives, &slot);

	if (l)
		__sync_fetch_and_add(l, n);
}

INLINE __u64 lives_of(__u32 slot)
{
	__u64 *l = bpf_map_lookup_elem(&lives, &slot);

	return l ? *(volatile __u64 *)l : 0;
}

INLINE __u8 effect_of(struct fs_run_cfg *run, __u32 bit)
{
	if ((run->stop >> bit) & 1)
		return FS_EFFECT_STOP;
	if ((run->deny >> bit) & 1)
		return FS_EFFECT_DENY;
	return (run->watch >> bit) & 1 ? FS_EFFECT_OBSERVE : FS_EFFECT_NONE;
}

INLINE bool op_repeated(struct fs_run_cfg *run, const struct op *o, __u32 verdict, __u32 *n)
{
	struct op_key k = {
		.a = o->a ^ o->key_a,
		.b = o->b ^ o->key_b,
		.slot = run->slot,
		.what = o->what,
		.verdict = verdict | (__u32)o->held << 8,
		.epoch = run->epoch,
	};
	struct op_seen *seen, fresh = { .at = bpf_ktime_get_ns() };

	*n = 0;
	seen = bpf_map_lookup_elem(&op_seens, &k);
	if (seen) {
		if (fresh.at - seen->at < OP_REPEAT_NS) {
			__sync_fetch_and_add(&seen->suppressed, 1);
			return true;
		}
		*n = seen->suppressed;
	}
	bpf_map_update_elem(&op_seens, &k, &fresh, BPF_ANY);
	return false;
}

/* The run is held, and what its policy lets through is refused for that reason. */
INLINE void refuse_held_op(struct fs_run_cfg *run, struct op *o)
{
	if (o->effect >= FS_EFFECT_DENY)
		return;
	o->effect = FS_EFFECT_DENY;
	o->held = no_daemon(run) ? FS_HELD_DEAD : FS_HELD_LATCHED;
}

/* Counts, latches and reports. Returns what an LSM hook returns: 0, or -EPERM where this way of seeing can refuse. */
INLINE int settled(struct fs_run_cfg *run, const struct op *o)
{
	bool can = o->via == FS_VIA_LSM || o->via == FS_VIA_CGROUP;
	__u8 verdict = o->effect >= FS_EFFECT_DENY && can ? FS_DENIED : FS_OBSERVED;
	struct fs_counters *c = counters_of(run->slot);
	int result = verdict == FS_DENIED ? -EPERM : 0;
	struct fs_op *e;
	__u32 n;
	long len;

	if (c && verdict == FS_DENIED)
		__sync_fetch_and_add(&c->denied_ops, 1);
	else if (c)
		__sync_fetch_and_add(&c->observed_ops, 1);
	if (o->effect == FS_EFFECT_STOP)
		latch_stop(run);
	/* What latches the run is told each time: after a thaw it may come again at once. */
	n = 0;
	if (o->effect != FS_EFFECT_STOP && op_repeated(run, o, verdict, &n))
		return result;
	e = event_new(run, FS_OP, sizeof(*e));
	if (!e)
		return result;
	subject_current(&e->hdr);
	e->what = o->what;
	e->verdict = verdict;
	e->via = o->via;
	e->kind = o->kind;
	e->held = o->held;
	e->repeats = n;
	e->a = o->a;
	e->b = o->b;
	e->c = o->c;
	e->path_len = 0;
	if (o->path) {
		len = bpf_probe_read_kernel_str(e->path, sizeof(e->path), o->path);
		e->path_len = len > 0 ? len - 1 : 0;
	}
	event_done(e, false);
	return result;
}

/* For tracing and LSM programs: a stop rule stops the caller too. */
SHARED int settle_call(struct fs_run_cfg *run, struct op *o)
{
	if (!run || !o)
		return 0;
	if (o->effect == FS_EFFECT_STOP)
		stop_caller(run);
	return settled(run, o);
}

/* Newer verifiers want to see that an LSM program returns no less than -4095: what comes out of a call is any number. */
INLINE int settle(struct fs_run_cfg *run, struct op *o)
{
	int refused = settle_call(run, o);

	barrier_var(refused);
	return refused ? -EPERM : 0;
}

/* ---- making processes ----------------------------------------------------------------------------- */

INLINE __u32 born_now(struct fs_run_cfg *run, bool count)
{
	__u32 slot = run->slot;
	__u64 *b = bpf_map_lookup_elem(&births, &slot);
	__u64 second = bpf_ktime_get_ns() / 1000000000ULL, was;

	if (!b)
		return 0;
	was = *(volatile __u64 *)b;
	if (was >> 32 != second) {
		/* Two that begin the second at once may lose one birth: of no matter to a limit. */
		if (count)
			*(volatile __u64 *)b = second << 32 | 1;
		return count;
	}
	if (count)
		was = __sync_fetch_and_add(b, 1) + 1;
	return (__u32)was;
}

INLINE bool beyond_limits(struct fs_run_cfg *run, struct op *o, bool count)
{
	__u64 alive = lives_of(run->slot);
	__u32 born = run->max_forks ? born_now(run, count) : 0;
	bool procs, forks;

	/* Asked before the fork, the new one is not yet counted; after it, it is. */
	procs = run->max_procs && (count ? alive > run->max_procs : alive >= run->max_procs);
	forks = run->max_forks && (count ? born > run->max_forks : born >= run->max_forks);
	o->what = FS_OP_FORK;
	o->a = alive;
	o->b = born;
	/* Both change all the time; what is the same is the limit. */
	o->key_a = alive;
	o->key_b = born;
	return procs || forks;
}

/* A process was made: counts it, and says so where no LSM program could refuse it. */
INLINE void forked(struct fs_run_cfg *run)
{
	struct op o = { .via = FS_VIA_TRACEPOINT, .effect = effect_of(run, FS_POINT_FORK) ?: FS_EFFECT_OBSERVE };

	if (beyond_limits(run, &o, true))
		settle(run, &o);
}
