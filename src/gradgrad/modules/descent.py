"""One step of the outer loop along a gradient that is known."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from gradgrad.adaptation.precomputed import with_gradient

HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


class Descent:
    """Take optimizer steps in manual optimization.

    By ``manual_backward`` and Lightning's optimizer, so that precision, strategy and callbacks have their say. Where none of them
    has anything to say (one device, no loss scaling, no callback that listens), the gradients are handed to the optimizer
    directly: the numbers are the same, and Lightning's calls would take half as long as a small network's whole iteration.

    Args:
        module: in training, with manual optimization.
        clip_norm: largest Euclidean norm of the gradient; None does not clip.
    """

    def __init__(self, module: LightningModule, clip_norm: float | None) -> None:
        self.module, self.clip_norm = module, clip_norm
        trainer = module.trainer
        self.optimizer: LightningOptimizer = module.optimizers()  # type: ignore[assignment]  # one, and wrapped
        precision = trainer.precision_plugin
        self.scaler = precision.scaler if isinstance(precision, MixedPrecision) else None
        listens = any(is_overridden(hook, callback, Callback) for hook in HOOKS for callback in trainer.callbacks)  # type: ignore[attr-defined]
        listens |= any(is_overridden(hook, module, LightningModule) for hook in (*HOOKS, "backward", "optimizer_step"))
        self.direct = type(trainer.strategy) is SingleDeviceStrategy and self.scaler is None and not listens

    def step(self, losses: Tensor, params: Sequence[Tensor], gradients: Sequence[Tensor], measured: bool) -> Tensor | None:
        """Take a step.

        Args:
            losses: of the tasks, without graph.
            params: to be changed.
            gradients: one for each.
            measured: whether the norm is wanted.

        Returns:
            The gradient's Euclidean norm before clipping, if it is wanted or known.
        """
        if self.direct:
            for param, gradient in zip(params, gradients, strict=True):
                param.grad = gradient
        else:
            self.optimizer.zero_grad()
            self.module.manual_backward(with_gradient(losses.mean(), params, gradients))
        scale = 1.0 if self.scaler is None else self.scaler.get_scale()  # a power of two; Lightning's step unscales, once
        norm = None
        if self.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(params, self.clip_norm * scale)
        elif measured:
            norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        if norm is not None and scale != 1.0:
            norm = norm / scale
        if self.direct:
            self.optimizer._on_before_step()  # Lightning counts its steps, and with them the meta-iterations
            self.optimizer.optimizer.step()
            self.optimizer._on_after_step()
        else:
            self.optimizer.step()
        return norm
