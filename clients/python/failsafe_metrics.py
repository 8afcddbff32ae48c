"""Reports a run's own metrics to failsafed: one line, standard library only.

    from failsafe_metrics import report
    report("loss", loss.item(), step=step)

Never raises and never blocks: training goes on without a daemon, and what could not be sent is counted in
`Reporter.dropped`. Who reports is known by the kernel's word; the run needs no id or key.
"""

import os
import socket
import sys
import time

DEFAULT_SOCKET = "/run/failsafe/metrics.sock"


class Reporter:
    """Sends metrics to one socket: `path`, or $FAILSAFE_METRICS_SOCKET, or the default."""

    def __init__(self, path=None):
        self.path = path or os.environ.get("FAILSAFE_METRICS_SOCKET") or DEFAULT_SOCKET
        self.dropped = 0
        self._socket = None
        self._pid = None

    def report(self, name, value, step=None):
        """Reports one value (anything that float() takes; NaN and infinities too). True if it was sent."""
        try:
            line = f"{name} {float(value)!r}" + ("" if step is None else f" {int(step)}")
            self._connected().sendto(line.encode(), self.path)
            return True
        except Exception:  # float() runs the value's own code: a tensor of two elements raises RuntimeError
            self.dropped += 1
            return False

    def _connected(self):
        # A data loader's worker is a process of its own: it must not share its parent's descriptor.
        if self._socket is None or self._pid != os.getpid():
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._pid = os.getpid()
        return self._socket


_default = None


def report(name, value, step=None):
    """Reports one value through the default socket. True if it was sent."""
    global _default
    if _default is None:
        _default = Reporter()
    return _default.report(name, value, step)


def main(arguments):
    """`python -m failsafe_metrics NAME VALUE [STEP]`: 0 if it was sent, 1 if not, 2 on wrong usage."""
    if len(arguments) not in (2, 3):
        print("usage: failsafe_metrics NAME VALUE [STEP]", file=sys.stderr)
        return 2
    reporter = Reporter()
    if reporter.report(*arguments):
        # The daemon finds the run by this process's cgroup, and can only while the process lives.
        time.sleep(0.2)
        return 0
    print(f"failsafe_metrics: not sent: is {reporter.path} there, and are the values numbers?", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
