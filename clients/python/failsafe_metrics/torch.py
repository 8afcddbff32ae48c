"""PyTorch: hooks that report the loss, the learning rate and the steps of a training loop.

    from failsafe_metrics.torch import watch
    watch(criterion=criterion, optimizer=optimizer)

PyTorch is imported when `watch` is called.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional

from ._reporter import Reporter, default_reporter
from ._training import flags, harmless, metric_name, phase


class Watcher:
    """Hooks of a training loop. `remove()` takes them away."""

    def __init__(self, reporter: Optional[Reporter] = None, name: str = "loss") -> None:
        self.reporter = reporter or default_reporter()
        self.name = metric_name(name)
        #: Steps of the optimizer so far.
        self.step = 0
        #: What the hooks are removed by.
        self.handles: List[Any] = []

    @harmless
    def on_loss(self, module: Any, inputs: Any, output: Any) -> None:
        """Forward hook of the criterion: reports its output; without gradients it is that of an evaluation."""
        import torch

        training = torch.is_grad_enabled()
        self.reporter.report(self.name if training else f"eval/{self.name}"[:64], output, self.step)

    @harmless
    def on_step(self, optimizer: Any, *_: Any) -> None:
        """Hook behind a step of the optimizer."""
        self.step += 1
        self.reporter.report("step", self.step, self.step)
        groups = getattr(optimizer, "param_groups", None)
        if groups:
            self.reporter.report("lr", groups[0]["lr"], self.step)

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


def regime() -> Dict[str, bool]:
    """Flags of PyTorch that change results, as far as this version has them."""
    import torch

    found: Dict[str, bool] = {}
    reads: Mapping[str, Callable[[], Any]] = {
        "deterministic": lambda: torch.are_deterministic_algorithms_enabled(),
        "anomaly-detection": lambda: torch.is_anomaly_enabled(),
        "autocast": lambda: torch.is_autocast_enabled(),
        "tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "cudnn-benchmark": lambda: torch.backends.cudnn.benchmark,
    }
    for name, read in reads.items():
        try:
            found[name] = bool(read())
        except Exception:  # another version
            continue
    return found


@harmless
def _attach(watcher: Watcher, register: Callable[[], Any]) -> None:
    watcher.handles.append(register())


@harmless
def _report_regime(reporter: Reporter) -> None:
    flags(regime(), reporter=reporter)
    phase("train", reporter=reporter)


def watch(
    criterion: Any = None, optimizer: Any = None, name: str = "loss", reporter: Optional[Reporter] = None
) -> Watcher:
    """Reports what `criterion` (a module whose output is the loss) gives, and the steps of `optimizer`."""
    watcher = Watcher(reporter, name)
    if criterion is not None:
        _attach(watcher, lambda: criterion.register_forward_hook(watcher.on_loss))
    if optimizer is not None:
        _attach(watcher, lambda: optimizer.register_step_post_hook(watcher.on_step))
    _report_regime(watcher.reporter)
    return watcher
