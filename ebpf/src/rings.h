/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * io_uring where LSM is refused: what it opens and the sockets it makes are no system calls. Each operation is told when it is
 * submitted, before it is carried out, from the kernel's own copies of its arguments. Attached only while a run has rules on
 * files or on families of sockets.
 */
struct io_cmd_data {
} __attribute__((preserve_access_index));

struct io_kiocb {
	struct io_cmd_data cmd;
	__u8 opcode;
} __attribute__((preserve_access_index));

struct filename {
	const char *name;
} __attribute__((preserve_access_index));

struct open_how {
	__u64 flags;
} __attribute__((preserve_access_index));

/* The commands of the operations, as cmd holds them. */
struct io_open {
	struct filename *filename;
	struct open_how how;
} __attribute__((preserve_access_index));

struct io_socket {
	int domain;
	int type;
	int protocol;
} __attribute__((preserve_access_index));

/* linux/io_uring.h */
#define IORING_OP_OPENAT 18
#define IORING_OP_OPENAT2 28
#define IORING_OP_SOCKET 45

INLINE void ring_open(struct fs_run_cfg *run, struct io_open *open)
{
	__u64 flags = BPF_CORE_READ(open, how.flags);
	struct room *r;

	if (!(run->flags & FS_RUN_OPENS))
		return;
	r = room_take();
	if (!r)
		return;
	if (bpf_probe_read_kernel_str(r->path, sizeof(r->path), BPF_CORE_READ(open, filename, name)) > 0)
		seen_path(run, r, (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT_OR_TRUNC, FS_VIA_TRACEPOINT);
	room_give(r);
}

INLINE int submitted(struct io_kiocb *req)
{
	__u8 opcode = BPF_CORE_READ(req, opcode);
	struct fs_run_cfg *run;
	__u64 cmd;

	if (opcode != IORING_OP_OPENAT && opcode != IORING_OP_OPENAT2 && opcode != IORING_OP_SOCKET)
		return 0;
	run = run_of_current();
	if (!run)
		return 0;
	cmd = (__u64)req + bpf_core_field_offset(struct io_kiocb, cmd);
	if (opcode == IORING_OP_SOCKET) {
		struct io_socket *s = (struct io_socket *)cmd;

		seen_socket(run, BPF_CORE_READ(s, domain), BPF_CORE_READ(s, type), BPF_CORE_READ(s, protocol),
			    FS_VIA_TRACEPOINT);
	} else {
		ring_open(run, (struct io_open *)cmd);
	}
	return 0;
}

SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(fs_ring, struct io_kiocb *req)
{
	return submitted(req);
}

/* Its name before 6.3. */
SEC("tp_btf/io_uring_submit_sqe")
int BPF_PROG(fs_ring_sqe, struct io_kiocb *req)
{
	return submitted(req);
}
