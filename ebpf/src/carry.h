/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * What one daemon's programs leave to the next's. Three maps are taken over as they are, because they cannot be copied while
 * packets pass: `socks` (net.h), the notes on sockets; `asks` (asked.h), the questions that sockets asked; and `learnt` (dns.h), the
 * addresses that names were answered with. Two of them name an allow-list by its table's number, which counts on over all daemons.
 *
 * The maps here are the daemon's own: no program touches them.
 */

/* The number of the table that was made last. Taken over with those three. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} last_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FS_MAX_RUNS);
	__type(key, __u32);
	__type(value, struct fs_tally);
} tallies SEC(".maps");
