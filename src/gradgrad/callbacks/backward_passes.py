"""How many backward passes a training takes."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.autograd import Variable

IN_TRAINING = ("training_step", "backward", "optimizer_step")  # Lightning's names for what it is calling


class _Counting:
    """Autograd's engine, which tells before it runs; all else as it is."""

    def __init__(self, engine: Any, tell: Callable[[], None]) -> None:
        self._engine, self._tell = engine, tell

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # autograd's own is opaque to it too
    def run_backward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():  # which runs it on nothing, to prepare a backward
            self._tell()
        return self._engine.run_backward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class BackwardPasses:
    """Count the runs of autograd's engine that the training itself asks for, those of callbacks and validations not.

    A pass over many samples, or over many tasks at once (``vmap``), counts once, a pass through a pass (``create_graph``) once
    more. A program that was compiled with all its gradients in it, as MAML's ``compile: true`` makes, runs no engine: then there
    is nothing to count, and :meth:`per_step` says so. Nothing changes but that each run is counted first.

    Args:
        module: in training.
    """

    def __init__(self, module: LightningModule) -> None:
        self.module, self.count, self.blind = module, 0, False
        self._after_batch = self._reported = (0, 0)  # passes and steps
        self._engine: Any = None

    def start(self, step: int) -> None:
        """Count from now on.

        Args:
            step: optimizer steps done so far.
        """
        self._after_batch = self._reported = (self.count, step)
        self._engine, self.blind = Variable._execution_engine, False
        Variable._execution_engine = _Counting(self._engine, self._saw)  # type: ignore[assignment]

    def _saw(self) -> None:
        self.count += self.module._current_fx_name in IN_TRAINING

    def stop(self) -> None:
        """Count no more."""
        Variable._execution_engine = self._engine

    def after_batch(self, step: int) -> bool:
        """Notice steps that no pass was counted for.

        Args:
            step: optimizer steps done so far.

        Returns:
            Whether the batch ended with a step; with gradient accumulation, most do not.
        """
        passes, steps = self._after_batch
        stepped = step - steps
        if stepped:
            self.blind |= self.count - passes < stepped
            self._after_batch = (self.count, step)
        return stepped > 0

    def per_step(self) -> float | None:
        """Give the mean since the last call.

        Returns:
            Passes per optimizer step; None where not all can be counted, or there was no step.
        """
        (passes, steps), self._reported = self._reported, self._after_batch
        done = self._after_batch[1] - steps
        return None if self.blind or not done else (self._after_batch[0] - passes) / done
