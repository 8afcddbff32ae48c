"""torchrun: rank, world size and restarts of a job, from the environment that torchrun sets.

    from failsafe_metrics.torchrun import announce
    announce()

The environment is read when a function is called, not at the import; PyTorch is not needed. Without torchrun, `job()` is None and
`announce()` reports nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Mapping, Optional

from ._reporter import Reporter, default_reporter
from ._training import harmless


@dataclass(frozen=True)
class Job:
    """What torchrun says about this process and its job."""

    #: Number of this process among all of the job.
    rank: int
    #: Processes of the job.
    world_size: int
    #: Number of this process among those of this node.
    local_rank: int
    #: Processes of this node.
    local_world_size: int
    #: How often torchrun has started the job again.
    restarts: int
    #: `--rdzv-id`; "none" unless it is given.
    run_id: str


def job(environment: Optional[Mapping[str, str]] = None) -> Optional[Job]:
    """The job of this process; None if torchrun has not started it, or a number cannot be read."""
    of = os.environ if environment is None else environment
    try:
        return Job(
            rank=int(of["RANK"]),
            world_size=int(of["WORLD_SIZE"]),
            local_rank=int(of["LOCAL_RANK"]),
            local_world_size=int(of.get("LOCAL_WORLD_SIZE", "1")),
            restarts=int(of["TORCHELASTIC_RESTART_COUNT"]),
            run_id=of.get("TORCHELASTIC_RUN_ID", "none"),
        )
    except (KeyError, ValueError):
        return None


@harmless
def announce(reporter: Optional[Reporter] = None, environment: Optional[Mapping[str, str]] = None) -> Optional[Job]:
    """Reports `job.restarts` and `job.world_size` of this rank, once, after each start. The job, or None without torchrun."""
    found = job(environment)
    if found is not None:
        to = reporter or default_reporter()
        to.report("job.restarts", found.restarts)
        to.report("job.world_size", found.world_size)
    return found
