"""The connection to failsafed.

A thread of its own sends in batches. What could not be sent is counted in `Reporter.dropped` and reported to the daemon as lost.
`flush()` waits for the daemon's answer. The kernel tells the daemon who connected; the run needs no id or key.
"""

from __future__ import annotations

import atexit
import collections
import math
import os
import socket
import sys
import threading
import time
from typing import Any, Deque, List, Mapping, Optional, Sequence, Tuple, Union

DEFAULT_SOCKET = "/run/failsafe/metrics.sock"
BUFFER = 200_000  # values; what is not finite has as many places again
DEFERRED = 1_000  # tensors of a GPU whose value is not read yet
BATCH = 2_000  # lines
RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # torchrun, srun, mpirun

Entry = Union[str, Tuple[str, Any, Optional[int]]]


def rank_of(environment: Mapping[str, str]) -> Optional[str]:
    """The rank of this process, as its launcher sets it."""
    return next((environment[name] for name in RANKS if environment.get(name)), None)


class Reporter:
    """Sends metrics to the socket beside `path`, $FAILSAFE_METRICS_SOCKET or the default (their name with `.stream`).

    The series of a value is `rank`, or the launcher's rank, or else the process.
    """

    def __init__(
        self, path: Optional[str] = None, rank: Union[str, int, None] = None, oneshot: bool = False
    ) -> None:
        self.path = (path or os.environ.get("FAILSAFE_METRICS_SOCKET") or DEFAULT_SOCKET) + ".stream"
        rank = rank_of(os.environ) if rank is None else rank
        self._hello = ([f"!rank {rank}"] if rank is not None else []) + (["!oneshot"] if oneshot else [])
        self._reset()
        atexit.register(self.flush, 2.0)

    def _reset(self) -> None:
        self.dropped = self.accepted = self.refused = 0  # dropped: here; refused: by the daemon
        self.reason: Optional[str] = None
        self._unreported = 0  # of those dropped, what the daemon does not know yet
        self._deferred = self._read = 0  # tensors: queued, by the callers; of those read, by the sending thread
        self._queue: Deque[Entry] = collections.deque()
        self._socket: Optional[socket.socket] = None
        self._busy = False
        self._wake, self._pid = threading.Event(), os.getpid()
        self._thread: Optional[threading.Thread] = None

    def report(self, name: str, value: Any, step: Optional[int] = None) -> bool:
        """Queues one value (anything that float() takes; NaN and infinities too). True if it is queued.

        The value of a tensor on a GPU is read by the sending thread, because reading it waits for the GPU.
        """
        try:
            if self._pid != os.getpid():  # a data loader's worker must not share its parent's connection
                self._reset()
            entry: Entry
            if getattr(value, "is_cuda", False):
                if self._deferred - self._read >= DEFERRED:
                    return self._drop(1, "too many tensors wait for their GPU")
                self._deferred += 1
                # A copy: the next step may write into the same memory before the thread reads it.
                entry = (name, value.detach().clone(), step)
            else:
                number = float(value)
                if len(self._queue) >= (BUFFER if math.isfinite(number) else 2 * BUFFER):
                    return self._drop(1, "the buffer is full")
                entry = line(name, number, step)
            self._queue.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="failsafe-metrics", daemon=True)
                self._thread.start()
            self._wake.set()
            return True
        except Exception as error:  # float() runs the value's own code: a tensor of two elements raises RuntimeError
            return self._drop(1, str(error))

    def flush(self, timeout: float = 5.0) -> Tuple[int, int, Optional[str]]:
        """Waits until the daemon has answered for what is queued: (accepted, refused or dropped, the last reason)."""
        until = time.monotonic() + timeout
        while self._pid == os.getpid() and (self._queue or self._busy) and time.monotonic() < until:
            time.sleep(0.001)
        return self.accepted, self.refused + self.dropped + len(self._queue), self.reason

    def _drop(self, count: int, reason: str) -> bool:
        self.dropped, self._unreported, self.reason = self.dropped + count, self._unreported + count, reason
        return False

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                self._busy = True
                entries = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                lines = self._lines(entries)
                try:
                    self._send(lines)
                except Exception as error:
                    self._socket = None
                    self._drop(len(lines), f"{self.path}: {error}")
                    time.sleep(0.1)
            self._busy = False

    def _lines(self, entries: Sequence[Entry]) -> List[str]:
        lines = []
        for entry in entries:
            if isinstance(entry, str):
                lines.append(entry)
                continue
            try:
                name, value, step = entry
                lines.append(line(name, float(value), step))
            except Exception as error:
                self._drop(1, str(error))
            finally:
                self._read += 1
        return lines

    def _send(self, lines: Sequence[str]) -> None:
        unreported = self._unreported
        head: List[str] = []
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(30)
            self._socket.connect(self.path)
            head = list(self._hello)
        head += [f"!lost {unreported}"] if unreported else []
        self._socket.sendall("\n".join([*head, *lines, "?", ""]).encode())
        answer = b""
        while not answer.endswith(b"\n"):
            more = self._socket.recv(4096)
            if not more:
                raise ConnectionError("the daemon closed the connection")
            answer += more
        words = answer.decode().split(None, 4)
        self._unreported -= unreported
        self.accepted, self.refused = self.accepted + int(words[1]), self.refused + int(words[3])
        if len(words) > 4:
            self.reason = words[4].strip()


def line(name: str, number: float, step: Optional[int]) -> str:
    """One value as the daemon reads it."""
    return (f"{name} {number!r}" + ("" if step is None else f" {int(step)}")).replace("\n", " ")


_default: Optional[Reporter] = None


def default_reporter() -> Reporter:
    """The reporter of `report()`, with the default socket."""
    global _default
    if _default is None:
        _default = Reporter()
    return _default


def report(name: str, value: Any, step: Optional[int] = None) -> bool:
    """Queues one value through the default socket. True if it is queued."""
    return default_reporter().report(name, value, step)


def main(arguments: Sequence[str]) -> int:
    """`python -m failsafe_metrics NAME VALUE [STEP]`: 0 if the daemon accepted it, 1 if not, 2 on wrong usage."""
    if len(arguments) not in (2, 3):
        print("usage: failsafe_metrics NAME VALUE [STEP]", file=sys.stderr)
        return 2
    reporter = Reporter(rank=rank_of(os.environ) or "cli", oneshot=True)
    reporter.report(arguments[0], arguments[1], arguments[2] if len(arguments) == 3 else None)  # type: ignore[arg-type]
    accepted, _, reason = reporter.flush()
    if accepted == 1:
        return 0
    print(f"failsafe_metrics: not accepted: {reason or 'no answer'}", file=sys.stderr)
    return 1
