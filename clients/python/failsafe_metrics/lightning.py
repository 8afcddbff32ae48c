"""Lightning: a callback that reports loss, learning rate, phases, checkpoints and precision.

    from failsafe_metrics.lightning import callback
    Trainer(callbacks=[callback()])

Lightning (`lightning` or `pytorch_lightning`) is imported when `callback` is called.
"""

from __future__ import annotations

from typing import Any, Optional

from ._reporter import Reporter, default_reporter
from ._training import checkpoint_saved, flag, harmless, metric_name, phase


class Hooks:
    """The hooks, without Lightning's base class."""

    def __init__(self, reporter: Optional[Reporter] = None) -> None:
        self.reporter = reporter or default_reporter()

    @harmless
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        phase("train", trainer.global_step, self.reporter)
        precision = str(getattr(trainer, "precision", "32"))
        flag("mixed-precision", "mixed" in precision or precision in ("16", "bf16"), reporter=self.reporter)

    @harmless
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        loss = outputs.get("loss") if hasattr(outputs, "get") else outputs
        if loss is not None:
            self.reporter.report("loss", loss, step)
        self.reporter.report("step", step, step)
        for optimizer in trainer.optimizers[:1]:
            self.reporter.report("lr", optimizer.param_groups[0]["lr"], step)

    @harmless
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not getattr(trainer, "sanity_checking", False):
            phase("evaluate", trainer.global_step, self.reporter)

    @harmless
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if getattr(trainer, "sanity_checking", False):
            return
        for name, value in trainer.callback_metrics.items():
            self.reporter.report(metric_name(name), value, trainer.global_step)
        phase("train", trainer.global_step, self.reporter)

    @harmless
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        checkpoint_saved(trainer.global_step, self.reporter)


def callback(reporter: Optional[Reporter] = None) -> Any:
    """A callback for Lightning's trainer."""
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

    class FailsafeCallback(Hooks, Callback):  # type: ignore[misc, unused-ignore]
        """Reports to failsafed."""

    return FailsafeCallback(reporter)
