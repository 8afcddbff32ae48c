/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Maps, attribution and event writing. Cost for a task outside every run: one array look-up when there is no
 * run; else one hash look-up per level at which a run has its root, of those that are no deeper than the task's own.
 */
#ifndef FAILSAFE_COMMON_H
#define FAILSAFE_COMMON_H

#define INLINE static __always_inline
/* Verified by itself, once, whatever calls it: of its arguments no more is known there than their types, and of the outcome nothing.
 * Pointers may be NULL. It is what keeps a program that calls it often, or in many states, within a verifier's patience. */
#define SHARED __noinline

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fs_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u64);
	__type(value, struct fs_run_cfg);
} runs SEC(".maps");

/* Next sequence number, by slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, __u64);
} seqs SEC(".maps");

/* enum fs_latch. Apart from fs_run_cfg so that a program may flip it too, without losing a write of the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, __u32);
} latches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024); /* the loader sets it */
} events SEC(".maps");

/* When the share of a run in a busy ring is free again, ns, by slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, __u64);
} shares SEC(".maps");

/* Events that the ring had no room for, by slot. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, struct fs_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, __u32);
	__type(value, struct fs_member);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fs_watchdog);
} watchdog SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct fs_occupant);
} stopped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct fs_leaver);
} leavers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct fs_occupant);
} strays SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fs_reader);
} reader SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fs_early);
} early SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fs_early_seen);
} early_seen SEC(".maps");

INLINE struct fs_counters *counters_of(__u32 slot)
{
	return bpf_map_lookup_elem(&counters, &slot);
}

INLINE struct fs_control *control_of_host(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

INLINE __u32 next_level(struct fs_control *c, __u32 level)
{
	return *(volatile __u8 *)&c->next[level % FS_LEVELS];
}

INLINE bool any_run(void)
{
	struct fs_control *c = control_of_host();

	return c && next_level(c, 0);
}

/* The search for the run whose root is above (or at) a cgroup, level by level from the top: runs do not lie inside one another.
 * It ends at the cgroup's own level, so it costs no more than that many look-ups, however many levels are in use on the host.
 * A loop in the program itself would be walked by the verifier once for each of the 64 levels, at every place that asks. */
struct around {
	struct fs_run_cfg *run;
	__u64 of;    /* the cgroup, as a number; unused where the search begins elsewhere */
	__u32 level; /* read from the table before the loop, so that it is no constant to verifiers before 6.7, see dns.h */
};

/* Whether the search ends at this level, of which the ancestor has this id. */
INLINE long around_ends(struct around *a, __u64 id)
{
	struct fs_control *c;

	if (!id)
		return 1;
	a->run = bpf_map_lookup_elem(&runs, &id);
	if (a->run)
		return 1;
	c = control_of_host();
	a->level = c ? next_level(c, a->level) : 0;
	return !a->level;
}

/* Begins a search; false: no run is on this host. */
INLINE bool around_begins(struct around *a)
{
	struct fs_control *c = control_of_host();

	a->level = c ? next_level(c, 0) : 0;
	return a->level;
}

static long around_current(__u64 i, struct around *a)
{
	return around_ends(a, bpf_get_current_ancestor_cgroup_id(a->level));
}

INLINE struct fs_run_cfg *run_of_current(void)
{
	struct around a = {};

	if (around_begins(&a))
		bpf_loop(FS_LEVELS, around_current, &a, 0);
	return a.run;
}

/* Cgroup pointers are handled as numbers and read by probe_read: an index into `ancestors` is not a constant. */
INLINE __u64 cgroup_id_of(__u64 cgrp)
{
	return BPF_CORE_READ((struct cgroup *)cgrp, kn, id);
}

/* Offset of a flexible array; relocating an element of it is more than aya can do. */
#define ARRAY_AT(type, field) __builtin_preserve_field_info(((type *)0)->field, BPF_FIELD_BYTE_OFFSET)

INLINE __u64 ancestor_id_of(__u64 cgrp, __u32 level)
{
	__u64 v = 0;

	if (level > (__u32)BPF_CORE_READ((struct cgroup *)cgrp, level))
		return 0;
	if (bpf_core_field_exists(((struct cgroup *)0)->ancestors)) {
		cgrp += ARRAY_AT(struct cgroup, ancestors);
		bpf_probe_read_kernel(&v, sizeof(v), (void *)(cgrp + level * sizeof(v)));
		return v ? cgroup_id_of(v) : 0;
	}
	cgrp += ARRAY_AT(struct cgroup___ids, ancestor_ids);
	bpf_probe_read_kernel(&v, sizeof(v), (void *)(cgrp + level * sizeof(v)));
	return v;
}

static long around_cgroup(__u64 i, struct around *a)
{
	return around_ends(a, ancestor_id_of(a->of, a->level));
}

INLINE struct fs_run_cfg *run_of_cgroup(__u64 cgrp)
{
	struct around a = { .of = cgrp };

	if (cgrp && around_begins(&a))
		bpf_loop(FS_LEVELS, around_cgroup, &a, 0);
	return a.run;
}

/* Whether there is a provisional run. While there is none, the programs at the root of discovery cost two look-ups. */
INLINE bool any_provisional(void)
{
	__u32 zero = 0;
	struct fs_early *e = bpf_map_lookup_elem(&early, &zero);
	struct fs_early_seen *s = bpf_map_lookup_elem(&early_seen, &zero);

	return e && s && *(volatile __u64 *)&s->bound != *(volatile __u64 *)&e->settled;
}

/* EARLY (a constant): the program is the one at the root of discovery, which judges provisional runs and leaves the others to the
 * programs on their own cgroups. Those judge every run: in the instant in which a run stops being provisional both do. */
INLINE struct fs_run_cfg *run_for(struct fs_run_cfg *run, const bool early)
{
	return early && run && !(run->flags & FS_RUN_PROVISIONAL) ? NULL : run;
}

INLINE __u64 cgroup_of(struct task_struct *t)
{
	return (__u64)BPF_CORE_READ(t, cgroups, dfl_cgrp);
}

INLINE bool no_daemon(struct fs_run_cfg *run)
{
	__u32 zero = 0;
	struct fs_watchdog *w;
	__u64 beat;

	if (!run->dead_after_ns)
		return false;
	w = bpf_map_lookup_elem(&watchdog, &zero);
	if (!w)
		return false;
	beat = *(volatile __u64 *)&w->beat_ns;
	/* Read in this order: a beat that comes in between lies after the clock and must not wrap. */
	return beat && (__s64)(bpf_ktime_get_ns() - beat) > (__s64)run->dead_after_ns;
}

/* enum fs_latch, as a rule, the daemon, or the daemon's absence has it. */
INLINE __u32 held(struct fs_run_cfg *run)
{
	__u32 slot = run->slot;
	__u32 *l = bpf_map_lookup_elem(&latches, &slot);
	__u32 bits = l ? *(volatile __u32 *)l : 0;

	if (run->flags & (FS_RUN_DEAD_EGRESS | FS_RUN_DEAD_ALL) && no_daemon(run))
		bits |= run->flags & FS_RUN_DEAD_ALL ? FS_LATCH_EGRESS | FS_LATCH_STOP : FS_LATCH_EGRESS;
	return bits;
}

INLINE void latch_stop(struct fs_run_cfg *run)
{
	__u32 slot = run->slot;
	__u32 *l = bpf_map_lookup_elem(&latches, &slot);

	if (l)
		__sync_fetch_and_or(l, FS_LATCH_EGRESS | FS_LATCH_STOP);
}

#define SIGSTOP 19

/* The caller's process stands still before it is back in user space. Only tracing and LSM programs may. */
INLINE void stop_caller(struct fs_run_cfg *run)
{
	struct fs_occupant s = { .slot = run->slot, .epoch = run->epoch };
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;

	bpf_map_update_elem(&stopped, &tgid, &s, BPF_ANY);
	bpf_send_signal(SIGSTOP);
}

/* In a ring that is more than half full each run has a share: so many records at once, and then one in each interval. A run that
 * floods the ring leaves room for what other runs do, which may have to be stopped. */
#define SHARE_NS 1000000ULL
#define SHARE_AT_ONCE 64

INLINE bool over_share(__u32 slot)
{
	__u64 now, *free = bpf_map_lookup_elem(&shares, &slot);

	if (!free || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < bpf_ringbuf_query(&events, BPF_RB_RING_SIZE) / 2)
		return false;
	now = bpf_ktime_get_ns();
	if (*free > now + SHARE_AT_ONCE * SHARE_NS)
		return true;
	/* Two processors may count one record: the share is no exact number. */
	*free = (*free > now ? *free : now) + SHARE_NS;
	return false;
}

/* Reserves the record and fills the header, all but cgroup_id. NULL: the loss has been counted. */
INLINE void *event_new(struct fs_run_cfg *run, __u32 kind, __u64 size)
{
	__u32 slot = run->slot;
	__u64 *seq = bpf_map_lookup_elem(&seqs, &slot);
	struct fs_counters *c = counters_of(slot);
	struct fs_hdr *h;
	__u64 n;

	if (!seq || !c)
		return NULL;
	__sync_fetch_and_add(&c->events[kind], 1);
	n = __sync_fetch_and_add(seq, 1);
	h = over_share(slot) ? NULL : bpf_ringbuf_reserve(&events, size, 0);
	if (!h) {
		__u64 *d = bpf_map_lookup_elem(&drops, &slot);

		if (d)
			__sync_fetch_and_add(d, 1);
		return NULL;
	}
	/* Records are not zeroed by the ring. Of the long ones only the header is: their tails have lengths. */
	__builtin_memset(h, 0, size > 256 ? sizeof(*h) : size);
	h->ktime_ns = bpf_ktime_get_ns();
	h->seq = n;
	h->run = slot;
	h->epoch = run->epoch;
	h->kind = kind;
	return h;
}

/* Events that may wait wake the reader too once so much is unread. */
#define MUCH_UNREAD (64 * 1024)

/* Hands the record over. Waking the reader is what an event costs most: one that may wait is read with the next that may not, or
 * when it looks by itself. The reader says that it sleeps, then looks once more; here the record is handed over first: one of the two
 * sees the other. An empty record does the waking, since one that is handed over cannot. */
INLINE void event_done(void *e, bool may_wait)
{
	__u32 zero = 0;
	struct fs_reader *r = bpf_map_lookup_elem(&reader, &zero);
	void *wake;

	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	if (!r || !*(volatile __u64 *)&r->asleep)
		return;
	if (may_wait && bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < MUCH_UNREAD)
		return;
	wake = bpf_ringbuf_reserve(&events, sizeof(__u64), 0);
	if (!wake)
		return;
	*(volatile __u64 *)&r->asleep = 0;
	bpf_ringbuf_discard(wake, BPF_RB_FORCE_WAKEUP);
}

INLINE void subject_task(struct fs_hdr *h, struct task_struct *t)
{
	h->pid = t->tgid;
	h->tid = t->pid;
	h->ppid = t->real_parent->tgid;
	h->uid = t->cred->uid.val;
	h->start_boottime_ns = t->group_leader->start_boottime;
	bpf_probe_read_kernel_str(h->comm, sizeof(h->comm), t->comm);
}

INLINE void subject_current(struct fs_hdr *h)
{
	h->cgroup_id = bpf_get_current_cgroup_id();
	subject_task(h, bpf_get_current_task_btf());
}

#endif

INLINE __u64 permitted(const struct cred *c)
{
	__u64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), &c->cap_permitted);
	return v;
}
