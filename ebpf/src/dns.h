/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Names in the allow-list. The answers that come in to the run's own sockets are read before the run is, so that what
 * it was told it may reach is allowed when it connects.
 *
 * Believed are answers over UDP from port 53 of the servers that the policy, or the host's resolv.conf, names: a run
 * cannot tell itself what it likes. Only the question's name counts; the A and AAAA records of the answer belong to it,
 * whatever aliases are between. Names are compared from their ends, so `*.example.org` is a prefix of what is compared:
 * `paths` holds them, under a table of their own, together with the names that rules want told.
 */
#define DNS_PORT 53
#define DNS_HEADER 12
#define DNS_BYTES 1024 /* of an answer that are read */
#define DNS_NAME 128
#define DNS_ANSWERS 16
#define DNS_TABLE 0x80000000u /* beside the run's table */

/* Which of the policy's hosts an address was an answer for, by bit. The next daemon's programs take this very map over, see
 * carry.h. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct fs_learnt_key);
	__type(value, __u64);
} learnt SEC(".maps");

/* Ports of each host: a of the key is the host's number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct fs_key);
	__type(value, struct fs_ports);
} host_ports SEC(".maps");

/* The loops here are calls of bpf_loop, whose body the verifier walks once: unrolled in its head they would cost it
 * millions of steps. What a body knows comes in its context. */
struct learnt_walk {
	struct fs_key key;
	__u64 hosts;
	struct dst d;
	bool allowed;
};

static long learnt_step(__u32 i, struct learnt_walk *w)
{
	struct fs_ports *p;

	if (!((w->hosts >> (i & 63)) & 1))
		return 0;
	w->key.a = i;
	p = bpf_map_lookup_elem(&host_ports, &w->key);
	w->allowed = p && port_on_list(p, &w->d);
	return w->allowed;
}

SHARED int learnt_allows(__u32 table, const struct dst *d)
{
	struct learnt_walk w = { .key = { .table = table, .what = FS_KEY_HOST } };
	struct fs_learnt_key k = { .table = table };
	__u64 *hosts;

	if (!d)
		return 0;
	k.family = d->family;
	__builtin_memcpy(k.addr, d->a, sizeof(k.addr));
	hosts = bpf_map_lookup_elem(&learnt, &k);
	if (!hosts)
		return 0;
	w.hosts = *hosts;
	w.d = *d;
	bpf_loop(FS_MAX_HOSTS, learnt_step, &w, 0);
	return w.allowed;
}

#define AT(r, i) ((__u8)(r)->path[(i) & (DNS_BYTES - 1)])
#define WORD_AT(r, i) ((__u32)AT(r, i) << 8 | AT(r, (i) + 1))

/* Where the name lies forwards in the room, behind the answer; each label begins with a dot. */
#define NAME_AT 2048

/* What changes from step to step lies in the room: `left` bytes of the label are to come, the name has `n` so far, and it
 * has `ended` whole (1) or is none (2). In the context it would be a constant to verifiers before 6.7, which walk the body
 * for its first step only and strike out what that step does not reach. */
struct name_walk {
	struct room *r;
};

static long name_step(__u32 i, struct name_walk *w)
{
	__u8 c = AT(w->r, DNS_HEADER + i);

	if (!w->r->left) {
		if (!c || c > 63) {
			w->r->ended = c ? 2 : 1;
			return 1;
		}
		w->r->left = c;
		c = '.';
	} else {
		w->r->left--;
		if (c >= 'A' && c <= 'Z')
			c += 'a' - 'A';
		if (!c) {
			w->r->ended = 2; /* would end the comparison early */
			return 1;
		}
	}
	w->r->path[NAME_AT + (i & (DNS_NAME - 1))] = c;
	w->r->n = i + 1;
	return 0;
}

/* The dot before the first label is left out: `example.org` becomes `gro.elpmaxe` and its end. */
static long name_back_step(__u32 i, struct name_walk *w)
{
	if (i + 1 >= w->r->n)
		return 1;
	w->r->key.path[i & (DNS_NAME - 1)] = w->r->path[NAME_AT + ((w->r->n - 1 - i) & (DNS_NAME - 1))];
	return 0;
}

/* Writes the question's name, lower case and from its end, into the room's key. Returns where the question ends, or 0. */
SHARED int dns_name(struct room *r)
{
	struct name_walk w = { .r = r };
	__u32 n;

	if (!r)
		return 0;
	r->left = r->n = r->ended = 0;
	bpf_loop(DNS_NAME, name_step, &w, 0);
	n = r->n;
	if (r->ended != 1 || n < 2 || n >= DNS_NAME)
		return 0;
	bpf_loop(DNS_NAME, name_back_step, &w, 0);
	r->key.path[(n - 1) & (DNS_NAME - 1)] = 0;
	r->key.prefixlen = 32 + 8 * n;
	r->path[NAME_AT + (n & (DNS_NAME - 1))] = 0;
	return DNS_HEADER + n + 1 + 4;
}

/* Tells one name from another: what one address is an answer for may be many. */
SHARED __u32 name_hash(struct room *r)
{
	__u64 hash = 0;

	if (!r)
		return 0;
	for (__u32 i = 0; i < DNS_NAME; i += 8) {
		if (i < r->n)
			hash = hash * 31 + *(__u64 *)(r->path + NAME_AT + i);
	}
	return hash ^ hash >> 32;
}

/* What an entry of names says: the host of the allow-list that it is, counted from 1, and whether a rule wants it told. */
#define NAMES_HOST(said) ((said) & 0xff)
#define NAMES_WATCHED(said) ((said) >> 8)

SHARED int dns_learn(struct fs_run_cfg *run, struct room *r, __u32 at_family, __u32 said)
{
	struct fs_learnt_key k = {};
	__u32 at = at_family >> 8, n = (at_family & 0xff) == 4 ? 4 : 16;
	__u64 mask = NAMES_HOST(said) ? 1ULL << ((NAMES_HOST(said) - 1) & 63) : 0, *was;
	struct op o = { .what = FS_OP_DNS };
	bool known = !mask;
	struct fs_op *e;
	__u32 repeats;

	if (!run || !r)
		return 0;
	k.table = run->table;
	k.family = at_family & 0xff;
	for (int i = 0; i < 16; i++) {
		if (i < n)
			k.addr[i] = AT(r, at + i);
	}
	was = mask ? bpf_map_lookup_elem(&learnt, &k) : NULL;
	if (was && (*was & mask))
		known = true;
	else if (was)
		__sync_fetch_and_or(was, mask);
	else if (mask)
		bpf_map_update_elem(&learnt, &k, &mask, BPF_ANY);
	if (known && !NAMES_WATCHED(said))
		return 0;
	o.key_a = *(__u64 *)k.addr;
	o.key_b = *(__u64 *)(k.addr + 8) ^ name_hash(r);
	if (op_repeated(run, &o, FS_ALLOWED, &repeats))
		return 0;
	e = event_new(run, FS_OP, sizeof(*e));
	if (!e)
		return 0;
	e->hdr.cgroup_id = run->root_id;
	e->what = FS_OP_DNS;
	e->verdict = FS_ALLOWED;
	e->via = FS_VIA_CGROUP;
	e->kind = 0;
	e->latched = 0;
	e->repeats = repeats;
	e->a = 0;
	e->b = 0;
	e->c = k.family;
	/* Forwards again, past the leading dot. */
	e->path_len = bpf_probe_read_kernel_str(e->path, FS_PATH_MAX - 16, r->path + NAME_AT + 1) - 1;
	__builtin_memcpy(e->path + FS_PATH_MAX - 16, k.addr, 16);
	event_done(e, false);
	return 0;
}

struct answer_walk {
	struct fs_run_cfg *run;
	struct room *r;
	__u32 at;
	__u32 len;
	__u32 answers;
	__u32 said;
};

static long answer_step(__u32 i, struct answer_walk *w)
{
	__u32 type, size;

	/* The owner's name is a pointer to the question or an alias: anything else ends the reading. */
	if (i >= w->answers || w->at + 12 > w->len || AT(w->r, w->at) < 0xc0)
		return 1;
	type = WORD_AT(w->r, w->at + 2);
	size = WORD_AT(w->r, w->at + 10);
	w->at += 12;
	if (w->at + size > w->len)
		return 1;
	if (type == 1 && size == 4)
		dns_learn(w->run, w->r, w->at << 8 | 4, w->said);
	if (type == 28 && size == 16)
		dns_learn(w->run, w->r, w->at << 8 | 6, w->said);
	w->at += size;
	return 0;
}

/* The answer is in the room; not SHARED, as path_effects. */
static __noinline int dns_answer(struct fs_run_cfg *run, struct room *r, __u32 len)
{
	struct answer_walk w = { .run = run, .r = r, .len = len };
	struct fs_effects *hit;

	if (!run || !r)
		return 0;
	/* A response without an error, to one question. */
	if (!(AT(r, 2) & 0x80) || AT(r, 3) & 0x0f || WORD_AT(r, 4) != 1)
		return 0;
	w.answers = WORD_AT(r, 6);
	w.at = dns_name(r);
	if (!w.at)
		return 0;
	r->key.table = run->table | DNS_TABLE;
	hit = bpf_map_lookup_elem(&paths, &r->key);
	if (!hit || !(hit->read || hit->write))
		return 0;
	w.said = hit->read | (__u32)hit->write << 8;
	bpf_loop(DNS_ANSWERS, answer_step, &w, 0);
	return 0;
}

INLINE void dns_read(struct fs_run_cfg *run, struct __sk_buff *skb)
{
	struct fs_key server = { .table = run->table, .what = FS_KEY_DNS };
	__u32 off, len, ports = 0;
	struct room *r;
	__u8 first = 0, proto = 0;

	bpf_skb_load_bytes(skb, 0, &first, 1);
	if (first >> 4 == 4) {
		__u32 from = 0;

		bpf_skb_load_bytes(skb, 9, &proto, 1);
		bpf_skb_load_bytes(skb, 12, &from, 4);
		server.a = from;
		off = (first & 0xf) * 4;
	} else {
		bpf_skb_load_bytes(skb, 6, &proto, 1);
		bpf_skb_load_bytes(skb, 8, &server.a, 8);
		bpf_skb_load_bytes(skb, 16, &server.b, 8);
		off = 40;
	}
	if (proto != IPPROTO_UDP || bpf_skb_load_bytes(skb, off, &ports, 4) || bpf_ntohl(ports) >> 16 != DNS_PORT)
		return;
	if (!bpf_map_lookup_elem(&keys, &server))
		return;
	off += 8;
	if (skb->len < off + DNS_HEADER)
		return;
	len = skb->len - off;
	if (len > DNS_BYTES - 1)
		len = DNS_BYTES - 1;
	r = room_take();
	if (!r)
		return;
	/* One bound at a time, on the register that is used: older verifiers follow no more than that. */
	barrier_var(len);
	if (len <= DNS_BYTES - 1) {
		barrier_var(len);
		if (len >= DNS_HEADER && !bpf_skb_load_bytes(skb, off, r->path, len))
			dns_answer(run, r, len);
	}
	room_give(r);
}
#undef AT
