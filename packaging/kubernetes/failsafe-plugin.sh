#!/bin/sh
# Custom plugin of node-problem-detector: the health of the node as failsafed sees it. docs/kubernetes.md explains it.
#
# usage: failsafe-plugin.sh unhealthy|degraded
#   unhealthy  a problem if the node is draining or unhealthy
#   degraded   a problem if the node is degraded too
# Exit codes of the plugin interface: 0 no problem, 1 a problem, 2 not known. stdout is the message of the condition.
set -u

# FAILSAFE_ROOT is where the root of the host is mounted, if failsafectl is not in the image.
failsafectl=${FAILSAFE_ROOT:-}/usr/lib/failsafe/bin/failsafectl
if [ -z "${FAILSAFE_ROOT:-}" ]; then
    failsafectl=failsafectl
fi
case ${1:-} in
unhealthy) set -- --accept-degraded ;;
degraded) set -- ;;
*)
    echo "usage: failsafe-plugin.sh unhealthy|degraded"
    exit 2
    ;;
esac

if ! command -v "$failsafectl" >/dev/null; then
    echo "$failsafectl is not installed on the node, or not executable"
    exit 2
fi

# node-problem-detector ends the plugin after its own time limit; this one is shorter, so that the message says why.
answer=$(timeout -k 1 12 "$failsafectl" node health --wait 8s "$@" 2>&1)
code=$?
answer=$(printf '%s\n' "$answer" | head -n 1)
case $code in
0)
    echo "$answer"
    exit 0
    ;;
10 | 11 | 12)
    echo "$answer"
    exit 1
    ;;
124 | 137) echo "failsafectl did not answer within 12 s" ;;
*) echo "$answer" ;;
esac
exit 2
