#!/bin/busybox sh
# The machine's first and only process. It has no disk: what it finds it says on the console.
export PATH=/usr/bin:/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t securityfs security /sys/kernel/security
busybox mount -t cgroup2 cgroup /sys/fs/cgroup
busybox mount -t bpf bpf /sys/fs/bpf
echo "kernel $(busybox uname -r); lsm $(busybox cat /sys/kernel/security/lsm)"
echo "RELEASE $(busybox uname -r)"
python3 /probe.py /failsafe.bpf.o
busybox poweroff -f
