"""What a training loop reports beside its values: phases, checkpoints, flags, samples of a distribution."""

from __future__ import annotations

import functools
import logging
import re
from typing import Any, Callable, Iterable, Mapping, Optional, TypeVar

from ._reporter import Reporter, default_reporter

#: Phases of a policy and their numbers (docs/policy-rules.md, "Phases and warm-up").
PHASES: Mapping[str, int] = {"warm-up": 1, "train": 2, "evaluate": 3, "checkpoint": 4}
#: Most samples of one call of `samples`.
MOST_SAMPLES = 256

_log = logging.getLogger("failsafe_metrics")
_Call = TypeVar("_Call", bound=Callable[..., Any])


def metric_name(text: str) -> str:
    """The text as a name of a metric: other characters become `_`, and what is longer than 64 is cut."""
    return re.sub(r"[^A-Za-z0-9_./-]", "_", text)[:64] or "_"


def phase(name: str, step: Optional[int] = None, reporter: Optional[Reporter] = None) -> bool:
    """Reports the phase of the run: `warm-up`, `train`, `evaluate` or `checkpoint`. False for another name."""
    number = PHASES.get(name)
    if number is None:
        _log.warning("unknown phase %r, expected one of %s", name, ", ".join(PHASES))
        return False
    return (reporter or default_reporter()).report("phase", number, step)


def flag(name: str, on: bool, step: Optional[int] = None, reporter: Optional[Reporter] = None) -> bool:
    """Reports a flag of the regime, such as `mixed-precision`, as the metric `flag.NAME`: 1 or 0."""
    return (reporter or default_reporter()).report(metric_name(f"flag.{name}"), 1 if on else 0, step)


def flags(all_flags: Mapping[str, bool], step: Optional[int] = None, reporter: Optional[Reporter] = None) -> None:
    """Reports several flags."""
    for name, on in all_flags.items():
        flag(name, on, step, reporter)


def checkpoint_saved(step: int, reporter: Optional[Reporter] = None) -> bool:
    """Reports that a checkpoint of this step is saved, as the metric `checkpoint.step`."""
    return (reporter or default_reporter()).report("checkpoint.step", step, step)


def samples(
    name: str,
    values: Iterable[Any],
    step: Optional[int] = None,
    reporter: Optional[Reporter] = None,
    most: int = MOST_SAMPLES,
) -> int:
    """Reports samples of a distribution, for the detectors `ks` and `psi`: at most `most`, evenly spread over the values.

    How many are queued.
    """
    to = reporter or default_reporter()
    try:
        flat = getattr(values, "flatten", None)
        listed = list(flat().tolist() if flat is not None else values)
    except Exception as error:
        _log.debug("samples of %s cannot be read: %s", name, error)
        return 0
    if len(listed) > most:
        listed = [listed[at * len(listed) // most] for at in range(most)]
    return sum(to.report(name, value, step) for value in listed)


def harmless(call: _Call) -> _Call:
    """A callback that never breaks training: what it raises is logged."""

    @functools.wraps(call)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except Exception as error:
            _log.debug("%s: %s", call.__qualname__, error)
            return None

    return wrapped  # type: ignore[return-value]
