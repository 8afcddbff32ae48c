"""Hugging Face: a callback for `transformers.Trainer` that reports what it logs, phases, checkpoints and flags.

    from failsafe_metrics.transformers import callback
    Trainer(..., callbacks=[callback()])

transformers is imported when `callback` is called.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional

from ._reporter import Reporter, default_reporter
from ._training import checkpoint_saved, flags, harmless, metric_name, phase

#: Arguments of the trainer that are flags of the regime.
FLAGS = ("fp16", "bf16", "tf32", "gradient_checkpointing", "full_determinism", "torch_compile")


class Hooks:
    """The hooks, without the base class of transformers."""

    def __init__(self, reporter: Optional[Reporter] = None) -> None:
        self.reporter = reporter or default_reporter()
        self._evaluates = False

    @harmless
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        phase("train", state.global_step, self.reporter)
        found = {name: bool(getattr(args, name)) for name in FLAGS if getattr(args, name, None) is not None}
        flags(found, reporter=self.reporter)

    @harmless
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.reporter.report("step", state.global_step, state.global_step)

    @harmless
    def on_log(self, args: Any, state: Any, control: Any, logs: Optional[Mapping[str, Any]] = None, **_: Any) -> None:
        for name, value in (logs or {}).items():
            if isinstance(value, (int, float)):
                self.reporter.report(metric_name(name), value, state.global_step)

    @harmless
    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._evaluates:
            self._evaluates = True
            phase("evaluate", state.global_step, self.reporter)

    @harmless
    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # It comes after the evaluation.
        self._evaluates = False
        phase("train", state.global_step, self.reporter)

    @harmless
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint_saved(state.global_step, self.reporter)


def callback(reporter: Optional[Reporter] = None) -> Any:
    """A callback for `transformers.Trainer`."""
    from transformers import TrainerCallback

    class FailsafeCallback(Hooks, TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Reports to failsafed."""

    return FailsafeCallback(reporter)
