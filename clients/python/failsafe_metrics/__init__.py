"""Reports a run's own metrics to failsafed: one line, standard library only.

    from failsafe_metrics import report
    report("loss", loss.item(), step=step)

Nothing here raises or waits, and training goes on without a daemon. Callbacks for frameworks, which import their framework
only when they are made:

    from failsafe_metrics.torch import watch
    from failsafe_metrics.lightning import callback
    from failsafe_metrics.transformers import callback
"""

from ._reporter import Reporter, default_reporter, report
from ._training import PHASES, checkpoint_saved, flag, flags, metric_name, phase, samples

__all__ = [
    "PHASES",
    "Reporter",
    "checkpoint_saved",
    "default_reporter",
    "flag",
    "flags",
    "metric_name",
    "phase",
    "report",
    "samples",
]
