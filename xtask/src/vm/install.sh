#!/bin/sh
# Runs in the machine of `cargo xtask vm --install`, as root, started by failsafe-vm.service. /payload/vm has this script and
# two packages, old.deb and new.deb. The machine is started twice on the same disk: /var/lib/install-phase says which time it is.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive
mkdir -p /results
say() { printf '%s s: %s\n' "$(cut -d. -f1 /proc/uptime)" "$*" | tee -a /results/steps.txt; }
fail() {
    say "FAILED: $*"
    journalctl --unit failsafed --unit failsafe-gateway --no-pager --lines 80
    cat /tmp/hooks 2> /dev/null
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
state() { failsafectl describe "$1" -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"])'; }
is() { # RUN STATE
    [ "$(state "$1")" = "$2" ] || {
        say "the run $1 is $(state "$1")"
        return 1
    }
}
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
fetch() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())' "$1"; }
metrics() { fetch http://127.0.0.1:9742/metrics | grep -q "$1"; }
# Whether a signed message says that the incident of the run ended by a thaw.
ended() {
    python3 -c '
import json, sys
for line in open("/tmp/hooks"):
    hook = json.loads(line)
    text = json.dumps(hook["body"])
    if hook["signature"].startswith("v1,") and "failsafe.v1.incident" in text and "thawed" in text:
        sys.exit(0)
sys.exit(1)'
}
# A server that takes webhooks: it writes each message, with the headers of its signature, to /tmp/hooks.
hooks() {
    cat > /tmp/hooks.py << 'PY'
import http.server, json
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        with open("/tmp/hooks", "a") as out:
            out.write(json.dumps({"signature": self.headers["webhook-signature"], "body": json.loads(body)}) + "\n")
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", 8642), Hook).serve_forever()
PY
    : > /tmp/hooks
    python3 /tmp/hooks.py > /tmp/hooks.log 2>&1 &
}

mount -t tmpfs -o mode=1777 tmpfs /tmp
case "$(cat /var/lib/install-phase 2> /dev/null)" in
"")
    ok "install" dpkg --install /payload/vm/old.deb
    ok "the daemon is active" systemctl is-active failsafed
    ok "the node is looked at" failsafectl doctor -o json
    failsafectl run --no-watch --user nobody --name job --policy /usr/share/failsafe/policies/exfiltration.toml -- \
        bash -c 'sleep 2; exec 3<>/dev/tcp/203.0.113.9/443; sleep 3600' > /tmp/run 2>&1 &
    ok "a rule froze the run" within 60 is job frozen
    ok "its cgroup is frozen" frozen
    before=$(pid)
    ok "upgrade" dpkg --install /payload/vm/new.deb
    ok "another daemon runs" [ "$(pid)" != "$before" ]
    ok "its cgroup is still frozen" frozen
    ok "the new daemon knows it as frozen" within 60 is job frozen
    ok "the log goes on and is whole" failsafectl log verify
    printf '[limits]\nrequests = { per_user = 7, total = 512, reserve = 4096 }\n' > /etc/failsafe/failsafed.d/50.toml
    ok "reload" systemctl reload failsafed
    printf 'ring_kb = 1\n' > /etc/failsafe/failsafed.d/50.toml
    ok "reload of a mistake is refused" sh -c '! systemctl reload failsafed'
    rm /etc/failsafe/failsafed.d/50.toml

    # The gateway as docs/metrics.md and docs/notifications.md turn it on, under the units of the package.
    printf '[gateway]\nuser = "failsafe-gateway"\nnotifications = true\n' > /etc/failsafe/failsafed.d/50-gateway.toml
    printf '[metrics]\naddress = "127.0.0.1:9742"\n' > /etc/failsafe/gateway.d/50-metrics.toml
    install -d -m 0750 -g failsafe-gateway /etc/failsafe/secrets
    echo 0123456789abcdef0123456789abcdef | install -m 0640 -g failsafe-gateway /dev/stdin /etc/failsafe/secrets/webhook
    cat > /etc/failsafe/gateway.d/50-notify.toml << 'TOML'
[notify]
contact = "gpu-oncall@example.org"
[notify.target.chat]
type = "webhook"
url = "http://127.0.0.1:8642/"
secret_file = "/etc/failsafe/secrets/webhook"
TOML
    hooks
    ok "both configurations are correct" sh -c 'failsafed --check && failsafe-gateway --check'
    ok "restart with a gateway" systemctl restart failsafed
    ok "the run is still frozen after the restart" frozen
    ok "the gateway starts" systemctl start failsafe-gateway
    ok "the gateway runs as its own user" pgrep -u failsafe-gateway -x failsafe-gatewa
    ok "metrics are served" within 60 metrics '^failsafed_build_info'
    ok "a run is in the metrics" within 60 metrics 'failsafe_run_info{.*job'
    ok "a test message is sent" runuser -u failsafe-gateway -- failsafe-gateway notify test chat
    ok "the test message has arrived" within 60 grep -q failsafe.v1.test /tmp/hooks
    ok "the run is thawed" failsafectl thaw job --reason "the package is tested"
    ok "the end of its incident is sent, signed" within 120 ended
    ok "the gateway is killed and comes back" sh -c 'systemctl kill --signal=KILL failsafe-gateway'
    ok "metrics are served again" within 60 metrics '^failsafed_build_info'
    ok "a drill proves that the node can stop a run" failsafectl drill now --reason "the package is tested"
    ok "its proof is in the metrics" within 60 metrics '^failsafe_stop_proved_timestamp_seconds [1-9]'
    ok "the daemon's unit is tight" systemd-analyze security --no-pager --threshold=32 failsafed.service
    ok "the gateway's unit is tight" systemd-analyze security --no-pager --threshold=15 failsafe-gateway.service
    ok "the job is killed" failsafectl kill job --reason "the package is tested"
    failsafectl run --no-watch --user nobody --name job3 --policy /usr/share/failsafe/policies/exfiltration.toml -- \
        sleep 3600 > /tmp/run 2>&1 &
    ok "a run is started before the reboot" within 60 sh -c 'pgrep -u nobody -x sleep'
    echo rebooted > /var/lib/install-phase
    say "reboot"
    ;;
rebooted)
    ok "the daemon is active after the reboot" within 180 systemctl is-active failsafed
    ok "the run of the earlier boot has ended" within 60 is job3 ended
    failsafectl describe job3 | head -20
    ok "the gateway is off until it is enabled" sh -c '! systemctl is-active failsafe-gateway'
    ok "the gateway starts after the reboot" systemctl start failsafe-gateway
    ok "metrics are served after the reboot" within 60 metrics '^failsafed_build_info'

    ok "the log is whole" failsafectl log verify
    failsafectl run --no-watch --user nobody --name job2 --policy /usr/share/failsafe/policies/exfiltration.toml -- \
        sleep 3600 > /tmp/run 2>&1 &
    ok "a run is started" within 60 sh -c 'pgrep -u nobody -x sleep'
    job=$(pgrep -u nobody -x sleep)
    ok "remove" dpkg --remove failsafe
    ok "the daemon is stopped" sh -c '! systemctl is-active failsafed'
    ok "the gateway is stopped" sh -c '! systemctl is-active failsafe-gateway'
    ok "the job lives" kill -0 "$job"
    ok "its pins are kept" sh -c '[ -n "$(find /sys/fs/bpf/failsafe -type f | head -1)" ]'
    ok "purge" dpkg --purge failsafe
    ok "the job lives after the purge" kill -0 "$job"
    ok "the pins are gone" [ ! -e /sys/fs/bpf/failsafe ]
    ok "the state is gone" [ ! -e /var/lib/failsafe ]
    ok "the gateway's state is gone" [ ! -e /var/lib/failsafe-gateway ]
    say "all steps passed"
    ;;
esac
finish
