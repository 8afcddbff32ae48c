/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * The first line of defence: connect, sendmsg, bind and making a socket, refused to the caller. Which policy applies is told in
 * net.h.
 */
INLINE __u8 bind_verdict(struct fs_run_cfg *run, const struct dst *d)
{
	__u8 effect = local_effect(run, d, 0, FS_TABLE_BIND_DENIED, FS_TABLE_BIND_STOPS);

	if (effect == FS_EFFECT_STOP)
		latch_stop(run);
	return effect >= FS_EFFECT_DENY ? FS_DENIED : FS_ALLOWED;
}

INLINE __u8 call_verdict_quiet(struct fs_run_cfg *run, struct dst *d)
{
	bool is_held = held(run);
	__u8 v;

	/* A bind leaves nothing on the wire: the latch and rules refuse it, the allow-list has no say. */
	if (d->op == FS_NET_BIND)
		v = bind_verdict(run, d);
	else if (d->flags & FS_NET_PROBE)
		v = probe_verdict(run, d);
	else
		v = bounds_verdict(run, d);
	return is_held ? refuse_held(run, d, v) : v;
}

INLINE void call_refused(struct fs_run_cfg *run, const struct dst *d)
{
	struct fs_counters *c = counters_of(run->slot);

	if (c)
		__sync_fetch_and_add(&c->denied_calls, 1);
	net_event(run, d, FS_DENIED, false, NULL);
}

SHARED int call_verdict(struct fs_run_cfg *run, struct dst *d, bool foreign)
{
	__u8 v;

	if (!run || !d)
		return FS_DENIED;
	v = call_verdict_quiet(run, d);
	if (foreign)
		d->flags |= FS_NET_FOREIGN;
	if (v == FS_DENIED)
		call_refused(run, d);
	else if (!foreign || v != FS_ALLOWED)
		net_event(run, d, v, false, NULL);
	return v;
}

/* RUN is the current task's. */
INLINE struct fs_run_cfg *run_of_sock(struct fs_run_cfg *run, struct bpf_sock *sk)
{
	__u32 zero = 0;
	volatile __u64 *s = bpf_map_lookup_elem(&scratch, &zero);
	__u64 cgrp = 0;

	if (!s || !sk)
		return NULL;
	*s = (__u64)(void *)sk;
	bpf_core_read(&cgrp, sizeof(cgrp), &((struct sock *)*s)->sk_cgrp_data.cgroup);
	if (cgrp == (__u64)bpf_get_current_task_btf()->cgroups->dfl_cgrp)
		return run;
	return run_of_cgroup(cgrp);
}

/* A destination under a list as one word, so that threads which share a socket never see half of each other's; 0 where there
 * is none. The socket's protocol is its own. */
INLINE __u64 place_of(struct fs_run_cfg *run, __u32 addr, __u16 port)
{
	return (__u64)addr << 32 | (__u32)port << 16 | (run->table & 0xffff);
}

/* The same as the last time, and nothing to tell: most calls and packets are. */
INLINE bool been_there(struct fs_run_cfg *run, struct sock_note *note, __u64 place)
{
	return note && note->last_table == run->table && *(volatile __u64 *)&note->last == place && !held(run);
}

INLINE int sock_addr(struct bpf_sock_addr *ctx, struct dst *d, const bool early)
{
	struct fs_run_cfg *run = run_for(run_of_current(), early), *owner;
	struct sock_note *note = NULL;
	bool leaves = d->op != FS_NET_BIND && d->family == 4 && !d->flags, probes = sends_nothing(d);
	__u8 v = FS_ALLOWED;
	__u64 place = 0;

	/* What a name brought in may go again. */
	if (run && leaves && !told(run, d->op) && !(run->flags & FS_RUN_DNS)) {
		place = place_of(run, d->a[0], d->port);
		note = bpf_sk_storage_get(&socks, ctx->sk, NULL, 0);
		if (been_there(run, note, place))
			return ALLOW;
	}
	owner = run_for(run_of_sock(run, ctx->sk), early);
	if (run) {
		/* What another run's socket sends is judged by that run's programs, not by this one's: only the call is left. */
		if (probes && owner == run)
			d->flags |= FS_NET_PROBE;
		v = call_verdict(run, d, false);
		if (v == FS_DENIED)
			return DENY;
	}
	if (owner && owner != run) {
		if (probes)
			d->flags |= FS_NET_PROBE;
		return call_verdict(owner, d, true) == FS_DENIED ? DENY : ALLOW;
	}
	if (!place || v != FS_ALLOWED || !owner)
		return ALLOW;
	note = note ?: bpf_sk_storage_get(&socks, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (note) {
		note->last_table = run->table;
		*(volatile __u64 *)&note->last = place;
	}
	return ALLOW;
}

INLINE struct dst dst_of(struct bpf_sock_addr *ctx, __u8 op)
{
	return (struct dst){
		.op = op,
		.proto = ctx->protocol,
		.sk_type = ctx->type,
		.port = bpf_ntohs(ctx->user_port),
	};
}

#define SOCK_ADDR4(name, section, operation, early)                               \
	SEC(section)                                                              \
	int name(struct bpf_sock_addr *ctx)                                       \
	{                                                                         \
		struct dst d = dst_of(ctx, operation);                            \
		if (early && !any_provisional())                                  \
			return ALLOW;                                             \
		dst4(&d, ctx->user_ip4);                                          \
		if (operation == FS_NET_BIND)                                     \
			d.a[0] = ctx->user_ip4;                                   \
		return sock_addr(ctx, &d, early);                                 \
	}

#define SOCK_ADDR6(name, section, operation, early)                               \
	SEC(section)                                                              \
	int name(struct bpf_sock_addr *ctx)                                       \
	{                                                                         \
		struct dst d = dst_of(ctx, operation);                            \
		if (early && !any_provisional())                                  \
			return ALLOW;                                             \
		__u32 a = ctx->user_ip6[0], b = ctx->user_ip6[1];                 \
		__u32 c = ctx->user_ip6[2], e = ctx->user_ip6[3];                 \
		dst6(&d, a, b, c, e);                                             \
		if (operation == FS_NET_BIND)                                     \
			d.a[d.family == 6 ? 3 : 0] = e;                           \
		return sock_addr(ctx, &d, early);                                 \
	}

SOCK_ADDR4(fs_connect4, "cgroup/connect4", FS_NET_CONNECT, false)
SOCK_ADDR4(fs_early_connect4, "cgroup/connect4", FS_NET_CONNECT, true)
SOCK_ADDR6(fs_connect6, "cgroup/connect6", FS_NET_CONNECT, false)
SOCK_ADDR6(fs_early_connect6, "cgroup/connect6", FS_NET_CONNECT, true)
SOCK_ADDR4(fs_sendmsg4, "cgroup/sendmsg4", FS_NET_SENDMSG, false)
SOCK_ADDR4(fs_early_sendmsg4, "cgroup/sendmsg4", FS_NET_SENDMSG, true)
SOCK_ADDR6(fs_sendmsg6, "cgroup/sendmsg6", FS_NET_SENDMSG, false)
SOCK_ADDR6(fs_early_sendmsg6, "cgroup/sendmsg6", FS_NET_SENDMSG, true)
SOCK_ADDR4(fs_bind4, "cgroup/bind4", FS_NET_BIND, false)
SOCK_ADDR4(fs_early_bind4, "cgroup/bind4", FS_NET_BIND, true)
SOCK_ADDR6(fs_bind6, "cgroup/bind6", FS_NET_BIND, false)
SOCK_ADDR6(fs_early_bind6, "cgroup/bind6", FS_NET_BIND, true)

/* A socket in another network namespace than the one that the run was registered in. Its destinations are judged like any; what is
 * answered there to questions for names is not believed, see asked.h. Told once for each such namespace. */
INLINE void other_netns(struct fs_run_cfg *run)
{
	__u32 netns = run->netns ? bpf_get_current_task_btf()->nsproxy->net_ns->ns.inum : 0;
	struct op o = { .what = FS_OP_NETNS, .key_a = netns };
	struct op_key k = { .a = netns, .slot = run->slot, .what = o.what, .verdict = FS_OBSERVED, .epoch = run->epoch };
	struct fs_op *e;
	__u32 n;

	if (!netns || netns == run->netns || bpf_map_lookup_elem(&op_seens, &k) || op_repeated(run, &o, FS_OBSERVED, &n))
		return;
	e = event_new(run, FS_OP, sizeof(*e));
	if (!e)
		return;
	subject_current(&e->hdr);
	e->what = FS_OP_NETNS;
	e->verdict = FS_OBSERVED;
	e->via = FS_VIA_CGROUP;
	e->kind = 0;
	e->held = FS_HELD_NOT;
	e->repeats = 0;
	e->path_len = 0;
	e->a = netns;
	e->b = e->c = 0;
	event_done(e, false);
}

/* Kinds of socket whose destinations the hooks cannot bound: raw, SCTP (connectx), MPTCP (addresses added later),
 * DCCP and the rest. Only asked for AF_INET and AF_INET6. */
INLINE int sock_create(struct bpf_sock *sk, const bool early)
{
	struct fs_run_cfg *run = run_for(run_of_current(), early);
	__u32 type = sk->type, proto = sk->protocol;
	struct fs_counters *c;
	struct dst d = {
		.op = FS_NET_SOCKET,
		.family = sk->family == AF_INET6 ? 6 : 4,
		.proto = proto,
		.sk_type = type,
	};
	bool is_held;
	__u8 v;

	if (!run)
		return ALLOW;
	other_netns(run);
	if (type == SOCK_STREAM && (proto == 0 || proto == IPPROTO_TCP))
		return ALLOW;
	if (type == SOCK_DGRAM && (proto == 0 || proto == IPPROTO_UDP || proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6))
		return ALLOW;
	is_held = held(run);
	if (!(run->flags & (FS_RUN_ENFORCE | FS_RUN_OBSERVE)) && !is_held)
		return ALLOW;
	v = run->flags & FS_RUN_ENFORCE ? FS_DENIED : run->flags & FS_RUN_OBSERVE ? FS_OBSERVED : FS_ALLOWED;
	if (v == FS_DENIED && run->stop & POINT(FS_POINT_NET))
		latch_stop(run);
	if (is_held)
		v = refuse_held(run, &d, v);
	c = counters_of(run->slot);
	if (c && v == FS_DENIED)
		__sync_fetch_and_add(&c->denied_calls, 1);
	net_event(run, &d, v, false, NULL);
	return v == FS_DENIED ? DENY : ALLOW;
}

SEC("cgroup/sock_create")
int fs_sock_create(struct bpf_sock *sk)
{
	return sock_create(sk, false);
}

SEC("cgroup/sock_create")
int fs_early_sock_create(struct bpf_sock *sk)
{
	return any_provisional() ? sock_create(sk, true) : ALLOW;
}

#define AF_UNIX 1
#define AF_NETLINK 16

/* Families that cgroup hooks never see; those they do see are judged there. */
INLINE bool unseen_family(__u32 family)
{
	return family != AF_INET && family != AF_INET6 && family != AF_UNIX && family != AF_NETLINK;
}

/* enum fs_effect of making a socket of a family. */
INLINE __u8 family_effect(struct fs_run_cfg *run, __u32 family)
{
	struct fs_key k = { .table = run->table, .what = FS_KEY_FAMILY, .a = family };
	struct fs_effects *e = run->flags & FS_RUN_FAMILIES ? bpf_map_lookup_elem(&keys, &k) : NULL;
	__u8 effect = e ? e->read : FS_EFFECT_NONE, bounded = FS_EFFECT_NONE;

	if (!unseen_family(family))
		return effect;
	if (run->flags & FS_RUN_ENFORCE)
		bounded = run->stop & POINT(FS_POINT_NET) ? FS_EFFECT_STOP : FS_EFFECT_DENY;
	else if (run->flags & FS_RUN_OBSERVE)
		bounded = FS_EFFECT_OBSERVE;
	return bounded > effect ? bounded : effect;
}

/* The socket is to listen, or does: what rules say of it, if it is one of IP. Who listens without binding gets any port: that is
 * what port 0 stands for. */
INLINE int listens(struct fs_run_cfg *run, __u64 sock, __u8 via)
{
	struct sock *sk = (struct sock *)sock;
	struct op o = { .what = FS_OP_LISTEN, .via = via };
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	struct dst d = {};

	if (!(run->flags & FS_RUN_PORTS) || (family != AF_INET && family != AF_INET6))
		return 0;
	d.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	d.proto = BPF_CORE_READ(sk, sk_protocol);
	if (family == AF_INET6) {
		struct in6_addr a = BPF_CORE_READ(sk, __sk_common.skc_v6_rcv_saddr);

		dst6(&d, a.in6_u.u6_addr32[0], a.in6_u.u6_addr32[1], a.in6_u.u6_addr32[2], a.in6_u.u6_addr32[3]);
		/* All addresses are what they are, not loopback. */
		d.a[d.family == 6 ? 3 : 0] = a.in6_u.u6_addr32[3];
	} else {
		d.family = 4;
		d.a[0] = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
	}
	o.effect = local_effect(run, &d, FS_TABLE_LISTEN_TOLD, FS_TABLE_LISTEN_DENIED, FS_TABLE_LISTEN_STOPS);
	o.a = (__u64)d.family << 24 | (__u64)d.proto << 16 | d.port;
	o.b = *(__u64 *)d.a;
	o.c = *(__u64 *)(d.a + 2);
	return o.effect ? settle(run, &o) : 0;
}

#define TCP_LISTEN 10

/* The fallback for lsm/socket_listen: TCP, MPTCP, SCTP and DCCP sockets that begin to listen, in their caller's call. Attached only
 * while a run has a rule on it: every change of a connection's state comes by. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(fs_listen, const struct sock *sk, int before, int after)
{
	struct fs_run_cfg *run;

	if (after != TCP_LISTEN)
		return 0;
	run = run_of_current();
	if (run)
		listens(run, (__u64)sk, FS_VIA_TRACEPOINT);
	return 0;
}

INLINE int established(struct bpf_sock_ops *ctx)
{
	struct sock_note *note;

	if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB || !ctx->sk)
		return 1;
	note = bpf_sk_storage_get(&socks, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (note)
		note->passive = 1;
	return 1;
}

SEC("sockops")
int fs_sock_ops(struct bpf_sock_ops *ctx)
{
	return established(ctx);
}

SEC("sockops")
int fs_early_sock_ops(struct bpf_sock_ops *ctx)
{
	return any_provisional() ? established(ctx) : 1;
}
