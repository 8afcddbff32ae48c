/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Programs that allow everything and look at nothing, at the hooks that failsafe takes on a run's cgroup: what is lost beside
 * them is the kernel's own cost of having any program there.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define ALLOW(name, section)    \
	SEC(section)            \
	int name(void *ctx)     \
	{                       \
		return 1;       \
	}

ALLOW(inet4_connect, "cgroup/connect4")
ALLOW(inet6_connect, "cgroup/connect6")
ALLOW(udp4_sendmsg, "cgroup/sendmsg4")
ALLOW(udp6_sendmsg, "cgroup/sendmsg6")
ALLOW(inet4_bind, "cgroup/bind4")
ALLOW(inet6_bind, "cgroup/bind6")
ALLOW(inet_sock_create, "cgroup/sock_create")
ALLOW(inet_egress, "cgroup_skb/egress")
ALLOW(inet_ingress, "cgroup_skb/ingress")
ALLOW(sock_ops, "sockops")
