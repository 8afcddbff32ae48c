#!/bin/sh
# Runs in the machine, as root, started by failsafe-vm.service. The disk /dev/vdb is mounted at /payload:
#   tree/   files of the host, under their own paths: the workspace's sources, and what was built
#   vm/     this script, nextest and its arguments; `halved` if these are the usual tests
# What is to come back is put into /results, which goes to /dev/vdc as a tar.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CI=true LANG=C.UTF-8
export FAILSAFE_SKIP_LOG=/results/skipped.txt FAILSAFE_TEST_PATIENCE=6 FAILSAFE_VM=1
mkdir -p /results
: > "$FAILSAFE_SKIP_LOG"
say() { printf '%s\n' "$*" | tee -a /results/console.txt; }

mount -t tmpfs -o mode=1777 tmpfs /tmp
# The paths that the test programs were built with.
while read -r path; do
    mkdir -p "$path"
    mount --bind "/payload/tree$path" "$path"
done < /payload/vm/binds
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
ip link set lo up
# There is no other interface, and a link-local address is one of the ways out that the tests try.
ip -6 address add fe80::1/64 dev lo
# Where nothing may go (tests/bypass): SCTP answers only from an address that an interface has.
ip address add 127.77.0.9/8 dev lo
# systemd switches a controller on when a unit asks for it; runs are made beside its units.
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control || say "no $controller in the root cgroup"
done

say "kernel $(uname -r); lsm $(cat /sys/kernel/security/lsm); up $(cut -d' ' -f1 /proc/uptime) s"
uname -r > /results/release
# Of the usual tests, each kernel makes an attempt of the bypass suite as one of its two users; the two kernels together as both.
if [ -e /payload/vm/halved ]; then
    case "$(uname -r)" in
    6.1.*) export FAILSAFE_BYPASS_HALF=0 ;;
    *) export FAILSAFE_BYPASS_HALF=1 ;;
    esac
fi
"$(cat /payload/vm/probe)" > /results/probe.jsonl 2> /results/probe.stderr || say "kernel_probe failed: $(cat /results/probe.stderr)"
say "programs probed; up $(cut -d' ' -f1 /proc/uptime) s"

set --
while read -r argument; do set -- "$@" "$argument"; done < /payload/vm/arguments
cd "$(cat /payload/vm/workspace)" || exit 1
{
    /payload/vm/cargo-nextest nextest run --binaries-metadata /payload/vm/binaries.json \
        --cargo-metadata /payload/vm/cargo.json --profile vm --no-fail-fast --color never "$@" 2>&1
    echo "nextest's exit status: $?"
} | tee /results/nextest.txt
dmesg > /results/dmesg.txt
say "done; up $(cut -d' ' -f1 /proc/uptime) s"
tar -cf /dev/vdc -C /results .
sync
