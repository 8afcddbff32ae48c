#!/bin/sh
# Runs in the machine of `cargo xtask vm --install`, as root, started by failsafe-vm.service. /payload/vm has this script and
# two packages, old.deb and new.deb. The machine is started twice on the same disk: /var/lib/install-phase says which time it is.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive
mkdir -p /results
say() { printf '%s s: %s\n' "$(cut -d. -f1 /proc/uptime)" "$*" | tee -a /results/steps.txt; }
fail() {
    say "FAILED: $*"
    journalctl --unit failsafed --no-pager --lines 60
    finish
}
finish() {
    tar -cf /dev/vdc -C /results .
    sync
    exit 0
}
# ok TEXT COMMAND...: the step, which must succeed.
ok() {
    what=$1
    shift
    "$@" > /tmp/out 2>&1 || { cat /tmp/out; fail "$what"; }
    say "$what"
}
state() { failsafectl describe job -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"])'; }
is() { [ "$(state)" = "$1" ] || { say "the run is $(state)"; return 1; }; }
within() { # SECONDS COMMAND...: until it succeeds
    until=$(($(cut -d. -f1 /proc/uptime) + $1))
    shift
    until "$@"; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$until" ] || return 1
        sleep 1
    done
}
# The run is made below the cgroup of the service that runs this script.
frozen() { find /sys/fs/cgroup -path '*/run-*/cgroup.events' -exec grep -qx 'frozen 1' {} +; }
pid() { systemctl show --value --property MainPID failsafed; }

mount -t tmpfs -o mode=1777 tmpfs /tmp
case "$(cat /var/lib/install-phase 2> /dev/null)" in
"")
    ok "install" dpkg --install /payload/vm/old.deb
    ok "the daemon is active" systemctl is-active failsafed
    ok "the node is looked at" failsafectl doctor -o json
    failsafectl run --no-watch --user nobody --name job --policy /usr/share/failsafe/policies/exfiltration.toml -- \
        bash -c 'sleep 2; exec 3<>/dev/tcp/203.0.113.9/443; sleep 3600' > /tmp/run 2>&1 &
    ok "a rule froze the run" within 60 is frozen
    ok "its cgroup is frozen" frozen
    before=$(pid)
    ok "upgrade" dpkg --install /payload/vm/new.deb
    ok "another daemon runs" [ "$(pid)" != "$before" ]
    ok "its cgroup is still frozen" frozen
    ok "the new daemon knows it as frozen" within 60 is frozen
    ok "the log goes on and is whole" failsafectl log verify
    printf '[limits]\nrequests = { per_user = 7, total = 512, reserve = 4096 }\n' > /etc/failsafe/failsafed.d/50.toml
    ok "reload" systemctl reload failsafed
    printf 'ring_kb = 1\n' > /etc/failsafe/failsafed.d/50.toml
    ok "reload of a mistake is refused" sh -c '! systemctl reload failsafed'
    rm /etc/failsafe/failsafed.d/50.toml
    echo rebooted > /var/lib/install-phase
    say "reboot"
    ;;
rebooted)
    ok "the daemon is active after the reboot" within 60 systemctl is-active failsafed
    ok "the run of the earlier boot has ended" within 60 is ended
    failsafectl describe job | head -20
    ok "the log is whole" failsafectl log verify
    failsafectl run --no-watch --user nobody --name job2 --policy /usr/share/failsafe/policies/exfiltration.toml -- \
        sleep 3600 > /tmp/run 2>&1 &
    ok "a run is started" within 60 sh -c 'pgrep -u nobody -x sleep'
    job=$(pgrep -u nobody -x sleep)
    ok "remove" dpkg --remove failsafe
    ok "the daemon is stopped" sh -c '! systemctl is-active failsafed'
    ok "the job lives" kill -0 "$job"
    ok "its pins are kept" sh -c '[ -n "$(find /sys/fs/bpf/failsafe -type f | head -1)" ]'
    ok "purge" dpkg --purge failsafe
    ok "the job lives after the purge" kill -0 "$job"
    ok "the pins are gone" [ ! -e /sys/fs/bpf/failsafe ]
    ok "the state is gone" [ ! -e /var/lib/failsafe ]
    say "all steps passed"
    ;;
esac
finish
