#!/bin/sh
# Every ordinary job, one after another; `JOB name ok`, `JOB name FAILED code` or `JOB name SKIPPED why` for each. The environment:
#   JOBS  this folder            WORK  a folder that may be written to    PYTHON  an interpreter
#   HOST  a name of the test's zone, with the ports WEB (HTTP), GIT (git daemon), RSYNC (rsync daemon) and SSH; empty: not there
cd "$WORK" || exit 1
failed=0
job() {
    name=$1
    shift
    # Seconds; the slowest takes three on an idle machine.
    if timeout 100 "$@" >"$name.log" 2>&1 </dev/null; then
        echo "JOB $name ok"
    else
        echo "JOB $name FAILED $?"
        sed "s/^/  $name: /" "$name.log"
        failed=1
    fi
}
skipped() { echo "JOB $1 SKIPPED $2"; }

job resolve "$PYTHON" -I "$JOBS/resolve.py" "$HOST" "$WEB"
job getent getent ahosts "$HOST"
if command -v curl >/dev/null; then
    job curl curl -sS --fail --max-time 60 -o fetched "http://$HOST:$WEB/simple/"
else
    skipped curl "curl is not installed"
fi
if [ -n "$GIT" ]; then
    job git git -c init.defaultBranch=main clone -q "git://$HOST:$GIT/repo" cloned
else
    skipped git "git has no daemon here"
fi
if "$PYTHON" -m pip --version >/dev/null 2>&1; then
    job pip "$PYTHON" -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps --target packages \
        --trusted-host "$HOST" --index-url "http://$HOST:$WEB/simple/" ordinary-demo
else
    skipped pip "$PYTHON has no pip"
fi
if [ -n "$RSYNC" ]; then
    job rsync rsync -q "rsync://$HOST:$RSYNC/web/simple/" .
else
    skipped rsync "rsync is not installed"
fi
if [ -n "$SSH" ]; then
    job ssh ssh -F none -q -p "$SSH" -i "$KEY" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        "root@$HOST" true
else
    skipped ssh "sshd is not installed, or the policy keeps ssh's files from runs"
fi
job allreduce "$PYTHON" -I "$JOBS/allreduce.py"
job loaders "$PYTHON" -I "$JOBS/loaders.py"
if "$PYTHON" -c 'import torch' 2>/dev/null; then
    job torch "$PYTHON" "$JOBS/torch_cpu.py"
else
    skipped torch "torch is not installed"
fi
skipped podman "a container has a cgroup and namespaces of its own: register --pid, see docs/policy.md"
echo "JOBS done"
# Until the test has looked at what the kernel counted: it is not kept of a run that has ended.
tries=0
while [ ! -e seen ] && [ $tries -lt 600 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
exit $failed
