/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Names in the allow-list. The answers that come in to the run's own sockets are read before the run is, so that what
 * it was told it may reach is allowed when it connects.
 *
 * Read are answers over UDP, and over TCP where one packet holds one answer whole (RFC 1035, 4.2.2), from port 53 of the
 * servers that the policy, or the host's resolv.conf, names. Which of them are believed is in asked.h. Only the question's name
 * counts; the A and AAAA records of the answer belong to it, whatever aliases are between. Names are compared from their ends,
 * so `*.example.org` is a prefix of what is compared: `paths` holds them, under a table of their own, together with the names
 * that rules want told.
 */
#define DNS_HEADER 12
#define DNS_BYTES 4096 /* of a message that are read */
#define DNS_NAME 256   /* of a name, with a dot before each label */
#define DNS_STEPS 2048 /* the labels and records that so many bytes can hold: each has two at least */
#define DNS_TABLE 0x80000000u /* beside the run's table */

/* Where a message is read. What changes from step to step of a loop lies here: in the loop's context it would be a constant to
 * verifiers before 6.7, which walk the body for its first step only and strike out what that step does not reach. */
struct dns_room {
	__u64 taken;
	__u64 hash;    /* of the question's name and type */
	__u32 left;    /* bytes of the label that are to come */
	__u32 n;       /* bytes of the name so far */
	__u32 ended;   /* 1: whole, 2: it is none */
	__u32 at;      /* where the next record begins */
	__u32 answers; /* records that are to come */
	__u32 pad;
	struct fs_path_key key;
	char name[DNS_NAME]; /* forwards; each label begins with a dot */
	char message[DNS_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ROOMS);
	__type(key, __u32);
	__type(value, struct dns_room);
} dns_rooms SEC(".maps");

INLINE struct dns_room *dns_room_take(void)
{
	__u32 first = bpf_get_smp_processor_id() * 2;

	for (int i = 0; i < ROOM_TRIES; i++) {
		__u32 at = (first + i) % ROOMS;
		struct dns_room *r = bpf_map_lookup_elem(&dns_rooms, &at);

		if (r && __sync_val_compare_and_swap(&r->taken, 0, 1) == 0)
			return r;
	}
	return NULL;
}

INLINE void dns_room_give(struct dns_room *r)
{
	__sync_fetch_and_and(&r->taken, 0);
}

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

#define AT(r, i) ((__u8)(r)->message[(i) & (DNS_BYTES - 1)])
#define WORD_AT(r, i) ((__u32)AT(r, i) << 8 | AT(r, (i) + 1))
/* FNV-1a, of as many bytes as one wants. */
#define HASH_FIRST 0xcbf29ce484222325ULL
#define HASH_NEXT(hash, c) (((hash) ^ (c)) * 0x100000001b3ULL)

struct name_walk {
	struct dns_room *r;
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
	w->r->name[i & (DNS_NAME - 1)] = c;
	w->r->hash = HASH_NEXT(w->r->hash, c);
	w->r->n = i + 1;
	return 0;
}

/* The dot before the first label is left out: `example.org` becomes `gro.elpmaxe` and its end. What of a long name lies beyond the
 * key is its beginning, which no entry names. */
static long name_back_step(__u32 i, struct name_walk *w)
{
	__u32 to = i;

	if (i + 1 >= w->r->n || to >= FS_RULE_PATH)
		return 1;
	w->r->key.path[to] = w->r->name[(w->r->n - 1 - i) & (DNS_NAME - 1)];
	return 0;
}

/* Writes the question's name, lower case and from its end, into the room's key. Returns where the question ends, or 0. */
SHARED int dns_name(struct dns_room *r)
{
	struct name_walk w = { .r = r };
	__u32 n, end, type;

	if (!r)
		return 0;
	r->left = r->n = r->ended = 0;
	r->hash = HASH_FIRST;
	bpf_loop(DNS_NAME, name_step, &w, 0);
	n = r->n;
	if (r->ended != 1 || n < 2 || n >= DNS_NAME)
		return 0;
	bpf_loop(DNS_NAME, name_back_step, &w, 0);
	end = n - 1;
	if (end < FS_RULE_PATH) {
		r->key.path[end] = 0;
		r->key.prefixlen = 32 + 8 * n;
	} else {
		r->key.prefixlen = 32 + 8 * FS_RULE_PATH;
	}
	r->name[n & (DNS_NAME - 1)] = 0;
	type = WORD_AT(r, DNS_HEADER + n + 1);
	r->hash = HASH_NEXT(r->hash, type);
	return DNS_HEADER + n + 1 + 4;
}

/* What an entry of names says: the host of the allow-list that it is, counted from 1, and whether a rule wants it told. */
#define NAMES_HOST(said) ((said) & 0xff)
#define NAMES_WATCHED(said) ((said) >> 8)

SHARED int dns_learn(struct fs_run_cfg *run, struct dns_room *r, __u32 at_family, __u32 said)
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
	o.key_b = *(__u64 *)(k.addr + 8) ^ r->hash;
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
	e->held = FS_HELD_NOT;
	e->repeats = repeats;
	e->a = 0;
	e->b = 0;
	e->c = k.family;
	/* Forwards again, past the leading dot. */
	e->path_len = bpf_probe_read_kernel_str(e->path, FS_PATH_MAX - 16, r->name + 1) - 1;
	__builtin_memcpy(e->path + FS_PATH_MAX - 16, k.addr, 16);
	event_done(e, false);
	return 0;
}

struct answer_walk {
	struct fs_run_cfg *run;
	struct dns_room *r;
	__u32 len;
	__u32 said;
};

/* One label of a record's owner, or the rest of a record. Whose the record is does not matter: all of an answer belong to what was
 * asked for. `answers` is left above 0 where the message ends too early. */
static long answer_step(__u32 i, struct answer_walk *w)
{
	__u32 at = w->r->at, type, size;
	__u8 c;

	if (!w->r->answers || at >= w->len)
		return 1;
	c = AT(w->r, at);
	if (c && c < 0xc0) {
		w->r->at = at + 1 + c;
		return c > 63;
	}
	at += c ? 2 : 1;
	if (at + 10 > w->len)
		return 1;
	type = WORD_AT(w->r, at);
	size = WORD_AT(w->r, at + 8);
	at += 10;
	if (at + size > w->len)
		return 1;
	if (type == 1 && size == 4)
		dns_learn(w->run, w->r, at << 8 | 4, w->said);
	if (type == 28 && size == 16)
		dns_learn(w->run, w->r, at << 8 | 6, w->said);
	w->r->at = at + size;
	w->r->answers--;
	return 0;
}

/* Tells why an answer of a server was not learnt from, once a second. */
SHARED int dns_doubted(struct fs_run_cfg *run, const struct fs_key *server, __u32 family_reason)
{
	__u32 family = family_reason >> 8, reason = family_reason & 0xff, n;
	struct op o = { .what = FS_OP_DNS, .key_b = reason };
	struct fs_op *e;

	if (!run || !server)
		return 0;
	o.key_a = server->a ^ server->b;
	if (op_repeated(run, &o, FS_OBSERVED, &n))
		return 0;
	e = event_new(run, FS_OP, sizeof(*e));
	if (!e)
		return 0;
	e->hdr.cgroup_id = run->root_id;
	e->what = FS_OP_DNS;
	e->verdict = FS_ALLOWED;
	e->via = FS_VIA_CGROUP;
	e->kind = 0;
	e->held = FS_HELD_NOT;
	e->repeats = n;
	e->path_len = 0;
	e->a = reason;
	e->b = 0;
	e->c = family;
	__builtin_memcpy(e->path + FS_PATH_MAX - 16, &server->a, 16);
	event_done(e, false);
	return 0;
}

/* Reads a message that begins at OFF into the room. Its length as far as it was read; 0: it is shorter than a header. */
INLINE __u32 dns_load(struct __sk_buff *skb, struct dns_room *r, __u32 off)
{
	__u32 len;

	if (skb->len < off + DNS_HEADER)
		return 0;
	len = skb->len - off;
	if (len > DNS_BYTES - 1)
		len = DNS_BYTES - 1;
	/* One bound at a time, on the register that is used: older verifiers follow no more than that. */
	barrier_var(len);
	if (len <= DNS_BYTES - 1) {
		barrier_var(len);
		if (len >= DNS_HEADER && !bpf_skb_load_bytes(skb, off, r->message, len))
			return len;
	}
	return 0;
}

/* The answer is in the room; not SHARED, as path_effects. What an entry of names says of its question; 0: nothing, or it is no
 * answer. */
static __noinline int dns_question(struct fs_run_cfg *run, struct dns_room *r)
{
	struct fs_effects *hit;

	if (!run || !r)
		return 0;
	/* A response without an error, to one question. */
	if (!(AT(r, 2) & 0x80) || AT(r, 3) & 0x0f || WORD_AT(r, 4) != 1)
		return 0;
	r->answers = WORD_AT(r, 6);
	r->at = dns_name(r);
	if (!r->at)
		return 0;
	r->key.table = run->table | DNS_TABLE;
	hit = bpf_map_lookup_elem(&paths, &r->key);
	return hit ? hit->read | (__u32)hit->write << 8 : 0;
}

/* TRUSTING (a constant): whoever sent it is believed; for tests of what is read. */
INLINE void dns_read(struct fs_run_cfg *run, struct __sk_buff *skb, const bool trusting)
{
	struct dns_packet p = {};
	struct fs_key server;
	struct dns_room *r;
	__u32 off, why = 0;

	if (!dns_headers(skb, &p, true))
		return;
	server = server_key(run, &p);
	if (!bpf_map_lookup_elem(&keys, &server))
		return;
	off = p.off;
	if (p.proto == IPPROTO_UDP) {
		off += 8;
	} else {
		__u8 words = 0;
		__u16 said = 0;

		bpf_skb_load_bytes(skb, off + 12, &words, 1);
		off += (words >> 4) * 4;
		if (skb->len <= off)
			return; /* nothing but a header */
		if (bpf_skb_load_bytes(skb, off, &said, 2) || bpf_ntohs(said) != skb->len - off - 2) {
			dns_doubted(run, &server, p.family << 8 | FS_DNS_PIECES);
			return;
		}
		off += 2;
	}
	r = dns_room_take();
	if (!r) {
		dns_doubted(run, &server, p.family << 8 | FS_DNS_BUSY);
		return;
	}
	{
		struct answer_walk w = { .run = run, .r = r };

		w.len = dns_load(skb, r, off);
		w.said = w.len ? dns_question(run, r) : 0;
		if (w.said) {
			if (!trusting)
				why = doubt(run, skb, &p, WORD_AT(r, 0), question_of(r->hash, &p));
			if (!why) {
				bpf_loop(DNS_STEPS, answer_step, &w, 0);
				if (r->answers)
					why = FS_DNS_CUT;
			}
		}
	}
	dns_room_give(r);
	if (why)
		dns_doubted(run, &server, p.family << 8 | why);
}

/* Notes what the run asks its name servers over UDP. */
static __noinline int dns_asks(struct fs_run_cfg *run, struct __sk_buff *skb)
{
	struct dns_packet p = {};
	struct fs_key server;
	struct dns_room *r;

	if (!run || !dns_headers(skb, &p, false) || p.proto != IPPROTO_UDP)
		return 0;
	server = server_key(run, &p);
	if (!bpf_map_lookup_elem(&keys, &server))
		return 0;
	r = dns_room_take();
	if (!r)
		return 0;
	if (dns_load(skb, r, p.off + 8) && !(AT(r, 2) & 0x80) && WORD_AT(r, 4) == 1 && dns_name(r))
		note_question(skb, WORD_AT(r, 0), question_of(r->hash, &p));
	dns_room_give(r);
	return 0;
}
#undef AT
