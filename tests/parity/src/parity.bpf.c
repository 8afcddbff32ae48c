// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The object of the daemon, whole, and programs that call its matchers on what a test asks in the one value of `parity`. They
 * are classifiers because such can be run by BPF_PROG_TEST_RUN on every kernel; the packet is of no matter.
 */
#include "failsafe.bpf.c"

/* Where each part lies is told to tests in lib.rs. */
struct parity {
	__u64 run;
	__u64 number;
	__u64 answer;
	__u32 table;
	__u16 flags;
	__u16 port;
	__u8 family;
	__u8 proto;
	__u8 op;
	__u8 pad[5];
	__u32 addr[4];
	char path[4096];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct parity);
} parity SEC(".maps");

INLINE struct parity *asked(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&parity, &zero);
}

INLINE struct dst dst_asked(struct parity *q)
{
	struct dst d = { .op = q->op, .proto = q->proto, .port = q->port };

	if (q->family == 4)
		dst4(&d, q->addr[0]);
	else
		dst6(&d, q->addr[0], q->addr[1], q->addr[2], q->addr[3]);
	return d;
}

/* What entries say of a path, as a word. */
SEC("classifier")
int parity_path(struct __sk_buff *skb)
{
	struct parity *q = asked();
	struct room *r = q ? room_take() : NULL;

	if (!r)
		return 1;
	bpf_probe_read_kernel(r->path, sizeof(r->path), q->path);
	q->answer = (__u32)path_effects(q->table, r);
	room_give(r);
	return 0;
}

/* enum fs_verdict on a destination. */
SEC("classifier")
int parity_judge(struct __sk_buff *skb)
{
	struct parity *q = asked();
	struct fs_run_cfg *run = q ? bpf_map_lookup_elem(&runs, &q->run) : NULL;
	struct dst d;

	if (!run)
		return 1;
	d = dst_asked(q);
	q->answer = judge(run, &d);
	q->flags = d.flags;
	return 0;
}

/* enum fs_effect of binding to an address (number 0), or of listening on it. */
SEC("classifier")
int parity_local(struct __sk_buff *skb)
{
	struct parity *q = asked();
	struct fs_run_cfg *run = q ? bpf_map_lookup_elem(&runs, &q->run) : NULL;
	struct dst d;

	if (!run)
		return 1;
	d = dst_asked(q);
	/* As the hooks do: all addresses are not loopback. */
	d.a[d.family == 6 ? 3 : 0] = q->addr[q->family == 6 ? 3 : 0];
	q->answer = q->number ? local_effect(run, &d, FS_TABLE_LISTEN_TOLD, FS_TABLE_LISTEN_DENIED, FS_TABLE_LISTEN_STOPS) :
				local_effect(run, &d, 0, FS_TABLE_BIND_DENIED, FS_TABLE_BIND_STOPS);
	return 0;
}

/* The destination's class; 0: none. */
SEC("classifier")
int parity_class(struct __sk_buff *skb)
{
	struct parity *q = asked();
	struct dst d;

	if (!q)
		return 1;
	d = dst_asked(q);
	q->answer = class_of(q->table, &d);
	return 0;
}

/* enum fs_syscall of a system call's number, of a 32-bit program's where op says so; below zero: it is not watched. */
SEC("classifier")
int parity_call(struct __sk_buff *skb)
{
	struct parity *q = asked();

	if (!q)
		return 1;
	q->answer = q->op ? compat_call(q->number) : native_call(q->number);
	return 0;
}

/* enum fs_effect of a call or point. */
SEC("classifier")
int parity_effect(struct __sk_buff *skb)
{
	struct parity *q = asked();
	struct fs_run_cfg *run = q ? bpf_map_lookup_elem(&runs, &q->run) : NULL;

	if (!run)
		return 1;
	q->answer = effect_of(run, q->number & 63);
	return 0;
}

/* enum fs_effect of an access (op) to the device of a kind (number) and a minor number (the first of the address). */
SEC("classifier")
int parity_device(struct __sk_buff *skb)
{
	struct parity *q = asked();

	if (!q)
		return 1;
	q->answer = device_effect(q->table, q->number, q->addr[0], q->op);
	return 0;
}

/* As fs_ingress reads an answer; whoever sent it is believed, as a packet of this test has no socket that asked. */
SEC("cgroup_skb/ingress")
int parity_answer(struct __sk_buff *skb)
{
	struct fs_run_cfg *run = run_of_skb(skb);

	if (run && run->flags & FS_RUN_DNS)
		dns_read(run, skb, true);
	return ALLOW;
}
