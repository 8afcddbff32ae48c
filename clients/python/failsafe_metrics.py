"""Reports a run's own metrics to failsafed: one line, standard library only.

    from failsafe_metrics import report
    report("loss", loss.item(), step=step)

Never raises and never waits: a thread of its own sends in batches, and training goes on without a daemon. What could not be
sent is counted in `Reporter.dropped` and reported to the daemon as lost. `flush()` waits for the daemon's answer. The kernel
tells the daemon who connected; the run needs no id or key. The series of a value is $RANK, or else the process.
"""

import atexit
import collections
import math
import os
import socket
import sys
import threading
import time

DEFAULT_SOCKET = "/run/failsafe/metrics.sock"
BUFFER = 200_000  # values; what is not finite has as many places again
BATCH = 2_000  # lines


class Reporter:
    """Sends metrics to the socket beside `path`, $FAILSAFE_METRICS_SOCKET or the default (their name with `.stream`)."""

    def __init__(self, path=None, rank=None, oneshot=False):
        self.path = (path or os.environ.get("FAILSAFE_METRICS_SOCKET") or DEFAULT_SOCKET) + ".stream"
        rank = os.environ.get("RANK") if rank is None else rank
        self._hello = ([f"!rank {rank}"] if rank is not None else []) + (["!oneshot"] if oneshot else [])
        self._reset()
        atexit.register(self.flush, 2.0)

    def _reset(self):
        self.dropped = self.accepted = self.refused = 0  # dropped: here; refused: by the daemon
        self.reason = None
        self._unsaid = 0  # of those dropped, what the daemon has not been told
        self._queue, self._socket, self._busy = collections.deque(), None, False
        self._wake, self._pid, self._thread = threading.Event(), os.getpid(), None

    def report(self, name, value, step=None):
        """Queues one value (anything that float() takes; NaN and infinities too). True if it is queued."""
        try:
            if self._pid != os.getpid():  # a data loader's worker must not share its parent's connection
                self._reset()
            number = float(value)
            line = f"{name} {number!r}" + ("" if step is None else f" {int(step)}")
            if len(self._queue) >= (BUFFER if math.isfinite(number) else 2 * BUFFER):
                return self._drop(1, "the buffer is full")
            self._queue.append(line.replace("\n", " "))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="failsafe-metrics", daemon=True)
                self._thread.start()
            self._wake.set()
            return True
        except Exception as error:  # float() runs the value's own code: a tensor of two elements raises RuntimeError
            return self._drop(1, str(error))

    def flush(self, timeout=5.0):
        """Waits until the daemon has answered for what is queued: (accepted, refused or dropped, the last reason)."""
        until = time.monotonic() + timeout
        while self._pid == os.getpid() and (self._queue or self._busy) and time.monotonic() < until:
            time.sleep(0.001)
        return self.accepted, self.refused + self.dropped + len(self._queue), self.reason

    def _drop(self, count, reason):
        self.dropped, self._unsaid, self.reason = self.dropped + count, self._unsaid + count, reason
        return False

    def _work(self):
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                self._busy = True
                lines = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                try:
                    self._send(lines)
                except Exception as error:
                    self._socket = None
                    self._drop(len(lines), f"{self.path}: {error}")
                    time.sleep(0.1)
            self._busy = False

    def _send(self, lines):
        unsaid, head = self._unsaid, []
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(30)
            self._socket.connect(self.path)
            head = list(self._hello)
        head += [f"!lost {unsaid}"] if unsaid else []
        self._socket.sendall("\n".join([*head, *lines, "?", ""]).encode())
        answer = b""
        while not answer.endswith(b"\n"):
            more = self._socket.recv(4096)
            if not more:
                raise ConnectionError("the daemon closed the connection")
            answer += more
        words = answer.decode().split(None, 4)
        self._unsaid -= unsaid
        self.accepted, self.refused = self.accepted + int(words[1]), self.refused + int(words[3])
        if len(words) > 4:
            self.reason = words[4].strip()


_default = None


def report(name, value, step=None):
    """Queues one value through the default socket. True if it is queued."""
    global _default
    if _default is None:
        _default = Reporter()
    return _default.report(name, value, step)


def main(arguments):
    """`python -m failsafe_metrics NAME VALUE [STEP]`: 0 if the daemon accepted it, 1 if not, 2 on wrong usage."""
    if len(arguments) not in (2, 3):
        print("usage: failsafe_metrics NAME VALUE [STEP]", file=sys.stderr)
        return 2
    reporter = Reporter(rank=os.environ.get("RANK", "cli"), oneshot=True)
    reporter.report(*arguments)
    accepted, _, reason = reporter.flush()
    if accepted == 1:
        return 0
    print(f"failsafe_metrics: not accepted: {reason or 'no answer'}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
