/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Egress. Two lines of defence, both on the run's own cgroup, so that nobody else pays:
 *   connect, sendmsg, bind, socket   refuse the call itself (EPERM) and report it, with the caller
 *   cgroup_skb/egress                drops what got past them: sockets connected before the policy came, raw packets
 *
 * Which policy applies. The kernel runs these programs for sockets *created* in the run's cgroup. The caller's run
 * decides; the run of the socket decides as well when it is another one or the caller is in none (a socket handed
 * out of the run stays bounded). If neither can be told (the run is being removed) the call passes: the programs
 * are only attached while their run is in the maps. A socket made outside the run and handed *in* reaches no
 * program of the run: a known leak, closed by LSM hooks where the kernel has them.
 *
 * Replies. Accepted TCP connections may answer whoever was let in (marked by sock_ops when they are established)
 * unless FS_RUN_NO_REPLIES. A TCP connection that was there before the run was registered is judged by its peer's
 * address, whoever opened it. UDP and the rest have no direction: the destination decides, always.
 *
 * Probes. Connecting a UDP or ping socket sends nothing, and is what name resolution does to sort addresses: it passes,
 * with the verdict FS_PROBE where the list does not name the address. The packets of such a socket reach no sendmsg hook,
 * as they name no address: cgroup_skb/egress is what refuses them.
 *
 * Loopback is judged like any address; 0.0.0.0 and :: as destinations mean loopback, as the kernel takes them so.
 * Neighbour discovery, resets and ICMP errors are sent by the kernel's own sockets and are in no run. AF_PACKET
 * and RDMA bypass cgroup hooks altogether.
 */
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58
#define ALLOW 1
#define DENY 0
#define REPEAT_NS 1000000000ULL

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct fs_lpm4);
	__type(value, struct fs_ports);
} egress4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct fs_lpm6);
	__type(value, struct fs_ports);
} egress6 SEC(".maps");

struct dst {
	__u32 a[4]; /* network order; IPv4 in a[0] */
	__u16 port; /* host order */
	__u16 flags;
	__u8 family; /* 4 or 6 */
	__u8 proto;
	__u8 sk_type;
	__u8 op;
};

/* What was sent to the ring less than REPEAT_NS ago, for the sources that can fire per packet, and for probes. */
struct recent_key {
	struct dst d;
	__u32 slot;
	__u32 verdict;
};

struct recent {
	__u64 at;
	__u64 suppressed;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct recent_key);
	__type(value, struct recent);
} recents SEC(".maps");

/* What is known of a socket; of one that is not TCP only where it last went. The next daemon's programs take these notes over,
 * see carry.h: a change of them is one of the ABI. */
struct sock_note {
	__u32 table;   /* allow-list generation the verdict is of; 0 = none */
	__u8 verdict;
	__u8 passive;  /* accepted, not opened, by the run */
	__u8 pad[2];
	__u64 last;    /* where its owner was last allowed to send or connect, see place_of; 0 = nowhere */
	__u32 last_table;
	__u32 pad2;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_note);
} socks SEC(".maps");

/* Only to turn the context's socket pointer into a number that probe_read may offset. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} scratch SEC(".maps");

INLINE void dst4(struct dst *d, __u32 addr)
{
	d->family = 4;
	d->a[0] = addr ?: bpf_htonl(0x7f000001);
	d->a[1] = d->a[2] = d->a[3] = 0;
}

INLINE void dst6(struct dst *d, __u32 a, __u32 b, __u32 c, __u32 e)
{
	if (!a && !b && c == bpf_htonl(0xffff)) {
		d->flags |= FS_NET_MAPPED;
		dst4(d, e);
		return;
	}
	d->family = 6;
	d->a[0] = a;
	d->a[1] = b;
	d->a[2] = c;
	d->a[3] = (a | b | c | e) ? e : bpf_htonl(1);
}

INLINE bool port_on_list(const struct fs_ports *p, const struct dst *d)
{
	for (int i = 0; i < FS_MAX_PORTS; i++) {
		const struct fs_port *e = &p->e[i];

		if (i >= p->n)
			break;
		if ((e->proto == 0 || e->proto == d->proto) && d->port >= e->lo && d->port <= e->hi)
			return true;
	}
	return false;
}

SHARED int learnt_allows(__u32 table, const struct dst *d);

SHARED int listed(__u32 table, const struct dst *d)
{
	struct fs_ports *p;

	if (!d)
		return 0;
	if (d->family == 4) {
		struct fs_lpm4 k = { .prefixlen = 64, .table = table };

		__builtin_memcpy(k.addr, d->a, 4);
		p = bpf_map_lookup_elem(&egress4, &k);
	} else {
		struct fs_lpm6 k = { .prefixlen = 160, .table = table };

		__builtin_memcpy(k.addr, d->a, 16);
		p = bpf_map_lookup_elem(&egress6, &k);
	}
	return p && port_on_list(p, d);
}

INLINE bool on_list(__u32 table, __u32 flags, const struct dst *d)
{
	return listed(table, d) || (flags & FS_RUN_DNS && learnt_allows(table, d));
}

/* enum fs_effect of a local address and port: what rules say of binding to it, or of listening on it. */
INLINE __u8 local_effect(struct fs_run_cfg *run, const struct dst *d, __u32 told, __u32 denied, __u32 stops)
{
	if (!(run->flags & FS_RUN_PORTS))
		return FS_EFFECT_NONE;
	if (!listed(run->table | denied, d))
		return told && listed(run->table | told, d) ? FS_EFFECT_OBSERVE : FS_EFFECT_NONE;
	return listed(run->table | stops, d) ? FS_EFFECT_STOP : FS_EFFECT_DENY;
}

/* By a rule on the destination; one that cannot be told may be meant. */
INLINE bool denied_by_rule(struct fs_run_cfg *run, const struct dst *d)
{
	if (!(d->flags & FS_NET_BAD_HDR || listed(run->table | FS_TABLE_NET_DENIED, d)))
		return false;
	if (run->flags & FS_RUN_NET_STOPS && listed(run->table | FS_TABLE_NET_STOPS, d))
		latch_stop(run);
	return true;
}

/* enum fs_verdict of the policy itself, whether or not the run is held. */
SHARED int bounds_verdict(struct fs_run_cfg *run, const struct dst *d)
{
	if (!run || !d)
		return FS_DENIED;
	if (run->flags & FS_RUN_NET_DENIED && denied_by_rule(run, d))
		return FS_DENIED;
	if (!(run->flags & (FS_RUN_ENFORCE | FS_RUN_OBSERVE)))
		return FS_ALLOWED;
	if (!(d->flags & FS_NET_BAD_HDR) && on_list(run->table, run->flags, d))
		return FS_ALLOWED;
	if (!(run->flags & FS_RUN_ENFORCE))
		return FS_OBSERVED;
	if (run->stop & POINT(FS_POINT_NET))
		latch_stop(run);
	return FS_DENIED;
}

/* The run is held: everything is refused. The event has the reason, and whether the policy, with VERDICT, refuses it too. */
INLINE __u8 refuse_held(struct fs_run_cfg *run, struct dst *d, __u8 verdict)
{
	d->flags |= no_daemon(run) ? FS_NET_DEAD : FS_NET_LATCHED;
	if (verdict == FS_DENIED)
		d->flags |= FS_NET_BOUNDS;
	return FS_DENIED;
}

/* enum fs_verdict. A stop rule latches the run: whether it is held is asked before. */
INLINE __u8 judge(struct fs_run_cfg *run, struct dst *d)
{
	bool is_held = held(run);
	__u8 v = bounds_verdict(run, d);

	return is_held ? refuse_held(run, d, v) : v;
}

/* Connecting a datagram socket only notes an address in it. Of these protocols each packet is judged by fs_egress, whatever call
 * sends it, and cgroup/sock_create lets no other protocol of that type into a run with a list. */
INLINE bool sends_nothing(const struct dst *d)
{
	return d->op == FS_NET_CONNECT && d->sk_type == SOCK_DGRAM &&
	       (d->proto == IPPROTO_UDP || d->proto == IPPROTO_ICMP || d->proto == IPPROTO_ICMPV6);
}

/* enum fs_verdict of such a connect: it passes, and latches nothing. */
SHARED int probe_verdict(struct fs_run_cfg *run, const struct dst *d)
{
	if (!run || !d)
		return FS_PROBE;
	if (run->flags & FS_RUN_NET_DENIED && listed(run->table | FS_TABLE_NET_DENIED, d))
		return FS_PROBE;
	if (!(run->flags & (FS_RUN_ENFORCE | FS_RUN_OBSERVE)) || on_list(run->table, run->flags, d))
		return FS_ALLOWED;
	return FS_PROBE;
}

/* True: an equal event was sent within REPEAT_NS. Otherwise *n is how many were held back since then. */
INLINE bool repeated(struct fs_run_cfg *run, const struct dst *d, __u8 verdict, __u32 *n)
{
	struct recent_key k = { .d = *d, .slot = run->slot, .verdict = verdict };
	struct recent *r, fresh = { .at = bpf_ktime_get_ns() };

	*n = 0;
	r = bpf_map_lookup_elem(&recents, &k);
	if (r) {
		if (fresh.at - r->at < REPEAT_NS) {
			__sync_fetch_and_add(&r->suppressed, 1);
			return true;
		}
		*n = r->suppressed;
	}
	bpf_map_update_elem(&recents, &k, &fresh, BPF_ANY);
	return false;
}

INLINE bool told(struct fs_run_cfg *run, __u8 op)
{
	return run->flags & (op == FS_NET_CONNECT ? FS_RUN_WATCH_CONNECT :
			     op == FS_NET_BIND    ? FS_RUN_WATCH_BIND :
						    FS_RUN_WATCH_SEND);
}

/* PACKET (a constant): the subject is the cgroup of the packet's socket, else the current task. A cgroup_skb program
 * must not even contain a question for the current task: older kernels refuse it. */
INLINE void net_event(struct fs_run_cfg *run, const struct dst *d, __u8 verdict, const bool packet, struct __sk_buff *skb)
{
	struct fs_net *e;
	__u32 n = 0;

	if (verdict == FS_ALLOWED && !told(run, d->op))
		return;
	if (verdict == FS_PROBE && !(run->flags & FS_RUN_WATCH_PROBE))
		return;
	/* What latches the run is told each time: after a thaw it may come again at once. */
	if ((d->op == FS_NET_SENDMSG || d->op == FS_NET_PACKET || verdict == FS_PROBE) &&
	    !((run->stop & POINT(FS_POINT_NET) || run->flags & FS_RUN_NET_STOPS) && verdict == FS_DENIED &&
	      !(d->flags & (FS_NET_LATCHED | FS_NET_DEAD))) &&
	    repeated(run, d, verdict, &n))
		return;
	e = event_new(run, FS_NET, sizeof(*e));
	if (!e)
		return;
	if (packet)
		e->hdr.cgroup_id = bpf_skb_cgroup_id(skb);
	else
		subject_current(&e->hdr);
	e->op = d->op;
	e->family = d->family;
	e->verdict = verdict;
	e->proto = d->proto;
	e->port = d->port;
	e->flags = d->flags;
	e->repeats = n;
	e->sk_type = d->sk_type;
	__builtin_memcpy(e->addr, d->a, sizeof(e->addr));
	event_done(e, false);
}
