# Shared by the prolog, the epilog and the health check of Slurm: settings, messages, and the question to failsafed.
# Each script sources it from its own folder. Nothing here calls a command of Slurm.
# shellcheck shell=sh disable=SC2034

# Slurm passes few variables to these scripts, and none of the settings below: they come from this file alone.
settings=${FAILSAFE_SLURM_SETTINGS:-/etc/default/failsafe-slurm}
FAILSAFE_ACTION=drain
FAILSAFE_WHEN_UNKNOWN=drain
FAILSAFE_DEGRADED=accept
FAILSAFE_WAIT=10

# say TEXT: to the system log, and to stderr, which Slurm may keep.
say() {
    printf 'failsafe: %s\n' "$1" >&2
    if command -v logger > /dev/null; then
        timeout -k 1 5 logger -t failsafe-slurm -- "$1" || true
    fi
}

# Assignments are exported, so that FAILSAFE_SOCKET and PATH may be set there too. A file with a syntax error would end the
# script, and with it drain the node.
if [ -r "$settings" ]; then
    if sh -n "$settings" 2> /dev/null; then
        set -a +u
        # shellcheck source=/dev/null
        . "$settings"
        set +a -u
    else
        say "$settings is no valid shell; using the defaults"
    fi
fi

# either NAME VALUE A B: VALUE, or A with a message if VALUE is neither A nor B.
either() {
    case $2 in
    "$3" | "$4") printf '%s\n' "$2" ;;
    *)
        say "$settings: $1 is \`$2\`, expected $3 or $4; using $3"
        printf '%s\n' "$3"
        ;;
    esac
}

FAILSAFE_ACTION=$(either FAILSAFE_ACTION "$FAILSAFE_ACTION" drain report)
FAILSAFE_WHEN_UNKNOWN=$(either FAILSAFE_WHEN_UNKNOWN "$FAILSAFE_WHEN_UNKNOWN" drain report)
FAILSAFE_DEGRADED=$(either FAILSAFE_DEGRADED "$FAILSAFE_DEGRADED" accept drain)
case $FAILSAFE_WAIT in
'' | *[!0-9]* | ???* | 0*)
    say "$settings: FAILSAFE_WAIT is \`$FAILSAFE_WAIT\`, expected 1 to 20 seconds; using 10"
    FAILSAFE_WAIT=10
    ;;
esac
# Slurm kills a health check after 60 s: this call, and two of scontrol, must fit.
if [ "$FAILSAFE_WAIT" -gt 20 ]; then
    say "$settings: FAILSAFE_WAIT is $FAILSAFE_WAIT, expected 1 to 20 seconds; using 20"
    FAILSAFE_WAIT=20
fi

# ask_health [GPUS]: the health of the node, or of it and these GPUs. Sets `verdict` to pass, bad or unknown, `level` to a
# word for it, and `text` to the first line of the answer.
ask_health() {
    set -- ${1:+--gpu "$1"} --wait "${FAILSAFE_WAIT}s"
    if [ "$FAILSAFE_DEGRADED" = accept ]; then
        set -- "$@" --accept-degraded
    fi
    # The time limit is for a failsafectl that hangs; --wait limits the wait for the daemon.
    text=$(timeout -k 2 "$((FAILSAFE_WAIT + 5))" failsafectl node health "$@" 2>&1)
    code=$?
    text=$(printf '%s\n' "$text" | head -n 1)
    case $code in
    0) verdict=pass level=healthy ;;
    10) verdict=bad level=degraded ;;
    11) verdict=bad level=draining ;;
    12) verdict=bad level=unhealthy ;;
    # A GPU of the job does not exist.
    6) verdict=bad level=missing-gpu ;;
    # 13: not observed, or no daemon. Everything else is no answer either: no permission, no failsafectl, the time limit.
    13) verdict=unknown level=unknown ;;
    124 | 137) verdict=unknown level=unknown text="failsafectl did not answer within $((FAILSAFE_WAIT + 5)) s" ;;
    *) verdict=unknown level=unknown text="failsafectl node health: exit code $code: $text" ;;
    esac
}
