/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * The second line of defence, and the byte counters: what leaves and enters the run's sockets packet by packet. Which
 * policy applies, and what of replies, is told in net.h.
 */
struct around_skb {
	struct around a;
	struct __sk_buff *skb;
};

static long around_packet(__u64 i, struct around_skb *s)
{
	return around_ends(&s->a, bpf_skb_ancestor_cgroup_id(s->skb, s->a.level));
}

INLINE struct fs_run_cfg *run_of_skb(struct __sk_buff *skb)
{
	struct around_skb s = { .skb = skb };

	if (around_begins(&s.a))
		bpf_loop(FS_LEVELS, around_packet, &s, 0);
	return s.a.run;
}

/* Hop-by-hop 0, routing 43, fragment 44, destination options 60: RFC 8200, 4. */
INLINE bool extension(__u8 proto)
{
	return proto == 0 || proto == 43 || proto == 44 || proto == 60;
}

/* Fills D from the packet's headers; returns the byte of TCP flags, 0 for anything else. */
SHARED int parse(struct __sk_buff *skb, struct dst *d)
{
	__u32 off, ports = 0;
	__u8 first = 0, tcp = 0;
	bool fragment;

	if (!d)
		return 0;
	bpf_skb_load_bytes(skb, 0, &first, 1);
	if (first >> 4 == 4) {
		__u8 ip[20] __attribute__((aligned(8)));

		if (bpf_skb_load_bytes(skb, 0, ip, sizeof(ip))) {
			d->flags |= FS_NET_BAD_HDR;
			return 0;
		}
		dst4(d, *(__u32 *)(ip + 16));
		d->proto = ip[9];
		off = (first & 0xf) * 4;
		/* Options may be a source route, whose last hop is not the destination field. */
		if (off != sizeof(ip))
			d->flags |= FS_NET_BAD_HDR;
		if (((ip[6] & 0x1f) | ip[7]) != 0)
			return 0; /* a later fragment has no ports */
	} else {
		__u8 ip[40] __attribute__((aligned(8)));

		if (bpf_skb_load_bytes(skb, 0, ip, sizeof(ip))) {
			d->flags |= FS_NET_BAD_HDR;
			return 0;
		}
		dst6(d, *(__u32 *)(ip + 24), *(__u32 *)(ip + 28), *(__u32 *)(ip + 32), *(__u32 *)(ip + 36));
		d->proto = ip[6];
		off = sizeof(ip);
		for (int i = 0; i < 4; i++) {
			__u8 ext[4];

			if (d->proto == 43)
				d->flags |= FS_NET_BAD_HDR;
			if (!extension(d->proto))
				break;
			if (bpf_skb_load_bytes(skb, off, ext, sizeof(ext))) {
				d->flags |= FS_NET_BAD_HDR;
				return 0;
			}
			off += d->proto == 44 ? 8 : (ext[1] + 1) * 8;
			fragment = d->proto == 44 && (ext[2] | (ext[3] & 0xf8));
			d->proto = ext[0];
			if (fragment)
				return 0; /* as above */
		}
		/* A longer chain than any that the kernel makes: what is behind it cannot be told. */
		if (extension(d->proto))
			d->flags |= FS_NET_BAD_HDR;
	}
	if (d->proto != IPPROTO_TCP && d->proto != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, off, &ports, sizeof(ports))) {
		d->flags |= FS_NET_BAD_HDR;
		return 0;
	}
	d->port = bpf_ntohl(ports) & 0xffff;
	if (d->proto == IPPROTO_TCP)
		bpf_skb_load_bytes(skb, off + 13, &tcp, 1);
	return tcp;
}

#define TCP_SYN 0x02
#define TCP_ACK 0x10

/* enum fs_verdict of the policy itself. */
INLINE __u8 packet_bounds(struct fs_run_cfg *run, struct __sk_buff *skb, struct dst *d, __u8 tcp)
{
	struct sock_note *note = NULL;
	struct bpf_sock *sk;
	__u8 v;

	if (tcp && !(d->flags & FS_NET_BAD_HDR) && (tcp & (TCP_SYN | TCP_ACK)) != TCP_SYN) {
		bool replies = !(run->flags & FS_RUN_NO_REPLIES);

		if (replies && (run->flags & FS_RUN_SYN_ONLY || tcp & TCP_SYN))
			return FS_ALLOWED;
		sk = skb->sk;
		if (sk)
			sk = bpf_sk_fullsock(sk);
		if (sk && sk->state != BPF_TCP_LISTEN)
			note = bpf_sk_storage_get(&socks, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (note && note->passive && replies)
			return FS_ALLOWED;
		if (note && note->table == run->table) {
			return note->verdict;
		}
	}
	v = bounds_verdict(run, d);
	if (note) {
		note->verdict = v;
		note->table = run->table;
	}
	return v;
}

INLINE __u8 packet_verdict(struct fs_run_cfg *run, struct __sk_buff *skb, struct dst *d, __u8 tcp)
{
	bool is_held = held(run);
	__u8 v = packet_bounds(run, skb, d, tcp);

	return is_held ? refuse_held(run, d, v) : v;
}

/* A packet that needs no judging: with an ordinary header, of a TCP connection whose verdict stands, or to where its socket was
 * just allowed to send. */
INLINE bool allowed_before(struct fs_run_cfg *run, struct __sk_buff *skb)
{
	__u8 *head = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct sock_note *note;
	struct bpf_sock *sk;
	__u8 proto;

	if (head + 40 > end)
		return false;
	proto = head[0] == 0x45 && !((head[6] & 0x1f) | head[7]) ? head[9] : head[0] >> 4 == 6 ? head[6] : 0;
	if (proto != IPPROTO_TCP && (proto != IPPROTO_UDP || head[0] != 0x45))
		return false;
	sk = skb->sk;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk || (proto == IPPROTO_TCP && sk->state != BPF_TCP_ESTABLISHED))
		return false;
	note = bpf_sk_storage_get(&socks, sk, NULL, 0);
	if (!note)
		return false;
	if (proto == IPPROTO_UDP)
		return been_there(run, note, place_of(run, *(__u32 *)(head + 16), bpf_ntohs(*(__u16 *)(head + 22))));
	if (held(run))
		return false;
	return (note->passive && !(run->flags & FS_RUN_NO_REPLIES)) ||
	       (note->table == run->table && note->verdict == FS_ALLOWED);
}

/* A datagram to port 53, or data over TCP. Whatever is asked there leaves the host, by way of a name server that may ask others. */
INLINE bool to_name_server(struct __sk_buff *skb)
{
	__u8 *head = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u8 proto;

	if (head + 60 > end) {
		if (head + 28 > end)
			return false;
		return head[0] == 0x45 && head[9] == IPPROTO_UDP && *(__u16 *)(head + 22) == bpf_htons(DNS_PORT);
	}
	if (head[0] == 0x45) {
		if (*(__u16 *)(head + 22) != bpf_htons(DNS_PORT))
			return false;
		/* Data: the packet is longer than its headers. */
		return head[9] == IPPROTO_UDP ||
		       (head[9] == IPPROTO_TCP && skb->len > 20 + (head[32] >> 4) * 4);
	}
	proto = head[0] >> 4 == 6 ? head[6] : 0;
	if (*(__u16 *)(head + 42) != bpf_htons(DNS_PORT))
		return false;
	return proto == IPPROTO_UDP || (proto == IPPROTO_TCP && skb->len > 40 + (head[52] >> 4) * 4);
}

INLINE int leaves(struct __sk_buff *skb, const bool early)
{
	struct fs_run_cfg *run = run_for(run_of_skb(skb), early);
	struct dst d = { .op = FS_NET_PACKET };
	struct fs_counters *c;
	__u32 segs;
	__u8 v, tcp;

	if (!run)
		return ALLOW;
	c = counters_of(run->slot);
	if (!c)
		return ALLOW;
	segs = skb->gso_segs ?: 1;
	if ((run->flags & (FS_RUN_ENFORCE | FS_RUN_OBSERVE | FS_RUN_BUDGETS | FS_RUN_NET_DENIED) || held(run)) &&
	    (run->flags & FS_RUN_BUDGETS || !allowed_before(run, skb))) {
		tcp = parse(skb, &d);
		v = packet_verdict(run, skb, &d, tcp);
		if (v != FS_ALLOWED)
			net_event(run, &d, v, true, skb);
		if (v == FS_DENIED) {
			__sync_fetch_and_add(&c->dropped_packets, segs);
			return DENY;
		}
		if (run->flags & FS_RUN_BUDGETS && beyond_budget(run, skb, &d, segs))
			return DENY;
	}
	__sync_fetch_and_add(&c->egress_bytes, skb->len);
	__sync_fetch_and_add(&c->egress_packets, segs);
	if (to_name_server(skb)) {
		__sync_fetch_and_add(&c->dns_bytes, skb->len);
		__sync_fetch_and_add(&c->dns_queries, segs);
		if (run->flags & FS_RUN_DNS)
			dns_asks(run, skb);
	}
	return ALLOW;
}

INLINE int enters(struct __sk_buff *skb, const bool early)
{
	struct fs_run_cfg *run = run_for(run_of_skb(skb), early);
	struct fs_counters *c = run ? counters_of(run->slot) : NULL;

	if (c) {
		__sync_fetch_and_add(&c->ingress_bytes, skb->len);
		__sync_fetch_and_add(&c->ingress_packets, skb->gso_segs ?: 1);
		if (run->flags & FS_RUN_DNS)
			dns_read(run, skb, false);
	}
	return ALLOW;
}

SEC("cgroup_skb/egress")
int fs_egress(struct __sk_buff *skb)
{
	return leaves(skb, false);
}

SEC("cgroup_skb/ingress")
int fs_ingress(struct __sk_buff *skb)
{
	return enters(skb, false);
}

SEC("cgroup_skb/egress")
int fs_early_egress(struct __sk_buff *skb)
{
	return any_provisional() ? leaves(skb, true) : ALLOW;
}

SEC("cgroup_skb/ingress")
int fs_early_ingress(struct __sk_buff *skb)
{
	return any_provisional() ? enters(skb, true) : ALLOW;
}
