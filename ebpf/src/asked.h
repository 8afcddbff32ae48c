/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Which answers of a name server are believed. A run that can write its own answers chooses for itself where it may connect, so
 * an answer counts only if all of this holds:
 *
 *   namespace   its socket is in the network namespace in which the run was registered (fs_run_cfg.netns). What the run makes for
 *               itself later, by unshare or clone, is not.
 *   sender      it came in by a device other than the loopback device; or the socket that is bound to the server's address here
 *               was made outside every run.
 *   question    over UDP: this very socket asked this server this question, with this id, at most ASKED_NS ago. Over TCP
 *               the connection itself is the proof.
 *
 * Questions are noted on the socket that asks, by fs_egress: no run can use up the room of another.
 */
#define DNS_PORT 53
#define ASKED_MAX 64 /* questions of one socket that may be open at once */
#define ASKED_NS 30000000000ULL
#define LOOPBACK_IFINDEX 1

struct asked {
	__u64 at; /* CLOCK_MONOTONIC, nanoseconds */
	__u32 question; /* question_of */
	__u32 id;
};

struct asked_note {
	__u32 next;
	__u32 pad;
	struct asked e[ASKED_MAX];
};

/* The next daemon's programs take this very map over, see carry.h: a change of it is one of the ABI. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct asked_note);
} asks SEC(".maps");

/* As `scratch` (net.h), for programs that run when a packet comes in: they interrupt the others. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} scratch_in SEC(".maps");

/* Number of the network namespace, as /proc/PID/ns/net has it; 0: this kernel has none, or it cannot be read. */
INLINE __u32 netns_number(struct net *net)
{
	return net ? BPF_CORE_READ(net, ns.inum) : 0;
}

INLINE __u32 netns_of_socket(struct __sk_buff *skb)
{
	__u32 zero = 0;
	volatile __u64 *s = bpf_map_lookup_elem(&scratch_in, &zero);
	struct bpf_sock *sk = skb->sk;

	if (!s || !sk || !bpf_core_field_exists(((struct sock_common *)0)->skc_net))
		return 0;
	*s = (__u64)(void *)sk;
	return netns_number(BPF_CORE_READ((struct sock *)*s, __sk_common.skc_net.net));
}

/* Headers of a packet from or to a name server, as far as they are needed here. */
struct dns_packet {
	__u32 server[4]; /* in network order; IPv4 in the first */
	__u32 client[4];
	__u32 off; /* where the transport's header begins */
	__u16 client_port; /* network order */
	__u8 family;
	__u8 proto;
};

/* Reads the headers; false: it is neither UDP nor TCP from (in) or to the servers' port. */
INLINE bool dns_headers(struct __sk_buff *skb, struct dns_packet *p, const bool in)
{
	__u16 ports[2] = {};
	__u8 first = 0;

	bpf_skb_load_bytes(skb, 0, &first, 1);
	if (first >> 4 == 4) {
		bpf_skb_load_bytes(skb, 9, &p->proto, 1);
		bpf_skb_load_bytes(skb, in ? 12 : 16, p->server, 4);
		bpf_skb_load_bytes(skb, in ? 16 : 12, p->client, 4);
		p->off = (first & 0xf) * 4;
		p->family = 4;
	} else {
		bpf_skb_load_bytes(skb, 6, &p->proto, 1);
		bpf_skb_load_bytes(skb, in ? 8 : 24, p->server, 16);
		bpf_skb_load_bytes(skb, in ? 24 : 8, p->client, 16);
		p->off = 40;
		p->family = 6;
	}
	if ((p->proto != IPPROTO_UDP && p->proto != IPPROTO_TCP) || bpf_skb_load_bytes(skb, p->off, ports, sizeof(ports)))
		return false;
	p->client_port = ports[in ? 1 : 0];
	return ports[in ? 0 : 1] == bpf_htons(DNS_PORT);
}

INLINE struct fs_key server_key(struct fs_run_cfg *run, const struct dns_packet *p)
{
	struct fs_key key = { .table = run->table, .what = FS_KEY_DNS };

	__builtin_memcpy(&key.a, p->server, 8);
	__builtin_memcpy(&key.b, p->server + 2, 8);
	return key;
}

/* A question, to one server, as one number. */
INLINE __u32 question_of(__u64 name_and_type, const struct dns_packet *p)
{
	__u64 n = name_and_type ^ p->server[0] ^ (__u64)p->server[3] << 32 ^ p->server[1] ^ p->server[2];

	return n ^ n >> 32;
}

INLINE void note_question(struct __sk_buff *skb, __u32 id, __u32 question)
{
	struct bpf_sock *sk = skb->sk;
	struct asked_note *note;
	struct asked *e;
	__u32 at;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	note = bpf_sk_storage_get(&asks, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!note)
		return;
	at = __sync_fetch_and_add(&note->next, 1) & (ASKED_MAX - 1);
	e = &note->e[at];
	*(volatile __u64 *)&e->at = 0;
	e->id = id;
	e->question = question;
	*(volatile __u64 *)&e->at = bpf_ktime_get_ns();
}

INLINE bool was_asked(struct __sk_buff *skb, __u32 id, __u32 question)
{
	struct bpf_sock *sk = skb->sk;
	struct asked_note *note;
	__u64 now = bpf_ktime_get_ns();

	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk)
		return false;
	note = bpf_sk_storage_get(&asks, sk, NULL, 0);
	if (!note)
		return false;
	_Pragma("clang loop unroll(disable)") for (int i = 0; i < ASKED_MAX; i++) {
		struct asked *e = &note->e[i];

		if (e->at && e->id == id && e->question == question && now - e->at < ASKED_NS)
			return true;
	}
	return false;
}

struct around_sock {
	struct around a;
	struct bpf_sock *sk;
};

static long around_socket(__u64 i, struct around_sock *s)
{
	return around_ends(&s->a, bpf_sk_ancestor_cgroup_id(s->sk, s->a.level));
}

/* Of a packet that came by the loopback device: whether a socket that was made outside every run is bound to the server's address.
 * Whose socket sent the packet is not known when it comes in. */
static __noinline int server_is_outside(struct __sk_buff *skb, const struct dns_packet *p)
{
	struct bpf_sock_tuple t = {};
	struct around_sock s = {};
	struct bpf_sock *sk;
	__u32 size;

	if (!p)
		return 0;
	if (p->family == 4) {
		t.ipv4.saddr = p->client[0];
		t.ipv4.daddr = p->server[0];
		t.ipv4.sport = p->client_port;
		t.ipv4.dport = bpf_htons(DNS_PORT);
		size = sizeof(t.ipv4);
	} else {
		__builtin_memcpy(t.ipv6.saddr, p->client, 16);
		__builtin_memcpy(t.ipv6.daddr, p->server, 16);
		t.ipv6.sport = p->client_port;
		t.ipv6.dport = bpf_htons(DNS_PORT);
		size = sizeof(t.ipv6);
	}
	if (p->proto == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	s.sk = sk;
	if (around_begins(&s.a))
		bpf_loop(FS_LEVELS, around_socket, &s, 0);
	bpf_sk_release(sk);
	return !s.a.run;
}

/* enum fs_dns_doubt of an answer to a question; 0: it is believed. */
INLINE __u32 doubt(struct fs_run_cfg *run, struct __sk_buff *skb, const struct dns_packet *p, __u32 id, __u32 question)
{
	__u32 netns = netns_of_socket(skb);

	if (run->netns && netns && netns != run->netns)
		return FS_DNS_NETNS;
	if (skb->ifindex == LOOPBACK_IFINDEX && !server_is_outside(skb, p))
		return FS_DNS_SENDER;
	if (p->proto == IPPROTO_UDP && !was_asked(skb, id, question))
		return FS_DNS_UNASKED;
	return 0;
}
