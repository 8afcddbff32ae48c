/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * A cgroup that a rule of discovery matches is bound when it is made, before the folder can be seen: no process is in it then.
 *
 *   cgroup_mkdir ─► automaton over the path ─► a rule's tables, made before ─► a free slot ─► an entry in `runs` (provisional)
 *
 * The daemon compiles the patterns of all rules to one automaton, so a path is judged here exactly as there. It registers the cgroup
 * afterwards, which ends the provisional entry, or releases it. Until then the programs fs_early_* at the root of discovery judge
 * what is judged on the cgroup of a run; all others look the run up by the task's cgroup and need nothing more.
 *
 * The tracepoint is called under a lock of the whole host: two calls never run at once.
 */

/* The loader sets the number of states. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fs_early_row);
} early_rows SEC(".maps");

/* By rule, from 0: what a run of it begins with. `root_id` 0: runs of this rule are not bound here. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_EARLY_RULES);
	__type(key, __u32);
	__type(value, struct fs_run_cfg);
} early_cfgs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FS_EARLY_SLOTS);
	__type(key, __u32);
	__type(value, struct fs_early_slot);
} early_slots SEC(".maps");

struct early_text {
	char c[FS_EARLY_PATH];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct early_text);
} early_path SEC(".maps");

struct early_walk {
	__u32 state;
};

static long early_step(__u64 i, struct early_walk *w)
{
	__u32 zero = 0, state = w->state;
	struct early_text *text = bpf_map_lookup_elem(&early_path, &zero);
	struct fs_early *e = bpf_map_lookup_elem(&early, &zero);
	struct fs_early_row *row = bpf_map_lookup_elem(&early_rows, &state);
	__u8 c;

	w->state = 0;
	if (!text || !e || !row)
		return 1;
	c = text->c[i & (FS_EARLY_PATH - 1)];
	w->state = row->next[e->class_of[c] & (FS_EARLY_CLASSES - 1)];
	return !w->state;
}

/* The rule that the path is of, from 1; 0: none. */
INLINE __u32 early_rule(struct fs_early *e, const char *path)
{
	struct early_walk w = { .state = e->start };
	struct fs_early_row *row;
	struct early_text *text;
	__u32 zero = 0;
	long len;

	text = bpf_map_lookup_elem(&early_path, &zero);
	if (!text)
		return 0;
	len = bpf_probe_read_kernel_str(text->c, sizeof(text->c), path);
	/* One that fills the room may have been cut. */
	if (len <= 1 || len >= FS_EARLY_PATH)
		return 0;
	bpf_loop(len - 1, early_step, &w, 0);
	row = w.state ? bpf_map_lookup_elem(&early_rows, &w.state) : NULL;
	return row ? row->rule : 0;
}

struct early_search {
	__u32 at;
	bool found;
};

static long early_is_free(__u64 i, struct early_search *s)
{
	__u32 at = i;
	struct fs_early_slot *slot = bpf_map_lookup_elem(&early_slots, &at);

	if (!slot || *(volatile __u32 *)&slot->state != FS_EARLY_FREE)
		return 0;
	s->at = at;
	s->found = true;
	return 1;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(fs_early_made, struct cgroup *cgrp, const char *path)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct early_search search = {};
	struct fs_early_seen *seen;
	struct fs_early_slot *slot;
	struct fs_run_cfg *cfg, run;
	struct fs_early *e;
	__u32 zero = 0, rule, at;
	__u64 id;

	e = bpf_map_lookup_elem(&early, &zero);
	seen = bpf_map_lookup_elem(&early_seen, &zero);
	if (!e || !seen || !e->start)
		return 0;
	/* Hierarchies of version 1 have folders with the same names and numbers. What a user makes has a name that the user chose. */
	if (cgrp->root != t->cgroups->dfl_cgrp->root || t->cred->fsuid.val)
		return 0;
	rule = early_rule(e, path);
	if (!rule)
		return 0;
	at = rule - 1;
	cfg = bpf_map_lookup_elem(&early_cfgs, &at);
	if (!cfg || !cfg->root_id)
		return 0;
	/* Inside a run, which bounds it. */
	if (run_of_cgroup((__u64)cgrp))
		return 0;
	bpf_loop(FS_EARLY_SLOTS, early_is_free, &search, 0);
	at = search.at;
	slot = search.found ? bpf_map_lookup_elem(&early_slots, &at) : NULL;
	if (!slot) {
		seen->exhausted++;
		return 0;
	}
	id = cgroup_id_of((__u64)cgrp);
	run = *cfg;
	run.slot = slot->slot;
	run.epoch = slot->epoch;
	run.root_id = id;
	run.flags |= FS_RUN_PROVISIONAL;
	/* Counted first: a program that finds the run must not take it that there is none. */
	seen->bound++;
	if (bpf_map_update_elem(&runs, &id, &run, BPF_NOEXIST)) {
		seen->bound--;
		seen->failed++;
		return 0;
	}
	slot->rule = rule;
	slot->root_id = id;
	slot->at_ns = bpf_ktime_get_ns();
	*(volatile __u32 *)&slot->state = FS_EARLY_TAKEN;
	return 0;
}
