"""The loss of a module at a batch, evaluated once, and again at other weights without leaving a trace."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradgrad.derivatives.randomness import RandomState
from gradgrad.errors import UsageError
from gradgrad.penalties.known import known


class LossEvaluation:
    """One batch's loss and its gradient.

    Args:
        module: has ``loss(batch)``, the mean loss over the samples.
        batch: what ``module.loss`` takes.
        needs_graph: whether the gradient will be differentiated.
        passes_again: whether the loss will be evaluated again.
        aside: leave buffers as they are in the first evaluation too.

    Attributes:
        params: trainable parameters by name.
        loss: scalar with its graph.

    Raises:
        UsageError: the module has no loss or no trainable parameters, or its loss is no scalar.
    """

    def __init__(
        self, module: nn.Module, batch: Any, needs_graph: bool = False, passes_again: bool = False, aside: bool = False
    ) -> None:
        self.module = module
        self.batch = batch
        self.params = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._needs_graph = needs_graph
        self._passes_again = passes_again
        self._gradients: dict[str, Tensor] | None = None
        _require_loss(module, self.params)
        device = next(iter(self.params.values())).device
        random = RandomState.capture(device) if passes_again else None
        # A second pass begins where the first did: with spectral norm, for one, buffers change the function.
        self._buffers = {f"module.{name}": b.clone() for name, b in module.named_buffers()} if passes_again or aside else {}
        self._random: RandomState | None = None
        if aside:
            self.loss = self.again()
        else:
            with kernels(module, needs_graph):
                self.loss = module.loss(batch)  # type: ignore[operator]
        self._random = random
        _require_scalar(self.loss, module)

    def require_gradient(self) -> None:
        """Insist on a loss that has a gradient.

        Raises:
            UsageError: the loss is not a number, or has no graph.
        """
        name = type(self.module).__name__
        if not self.loss.requires_grad:
            raise UsageError(
                f"{name}.loss gave a loss without a graph, which has no gradient to penalize.\n"
                "write:    penalize in training_step only, or under torch.enable_grad()"
            )
        if self.loss.isnan():
            raise UsageError(
                f"{name}.loss gave nan, which cannot be penalized.\n"
                "write:    a smaller learning rate or weight, or gradient clipping"
            )

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the loss by name, of those parameters that it uses; with a graph where one was asked for."""
        if self._gradients is None:
            found = torch.autograd.grad(self.loss, list(self.params.values()), create_graph=self._needs_graph, allow_unused=True)
            self._gradients = {name: g for name, g in zip(self.params, found, strict=True) if g is not None}
        return self._gradients

    def objective(self, plain: float | Tensor = 0.0) -> Tensor:
        """Give the loss to the optimizer's backward: from what is known already, where its graph has been spent.

        Args:
            plain: a multiple of the loss's own gradient to hand on besides.

        Returns:
            Scalar with the value of the loss, and 1 + ``plain`` times its gradient.
        """
        if isinstance(plain, float) and plain == 0 and (self._needs_graph or self._gradients is None):
            return self.loss
        if isinstance(plain, float) and plain == -1:  # SAM: the gradient here is not wanted at all
            return self.loss.detach()
        return self.own_gradient(1 + plain, self.loss)

    def own_gradient(self, share: float | Tensor, value: Tensor | None = None) -> Tensor:
        """Make a scalar whose gradient is a multiple of the loss's own.

        Args:
            share: the multiple.
            value: of the scalar; 0 unless told.

        Returns:
            Scalar.
        """
        value = torch.zeros_like(self.loss) if value is None else value
        scale = torch.as_tensor(share, dtype=value.dtype, device=value.device)
        gradients = [gradient.detach() for gradient in self.gradients.values()]
        return known(value, [self.params[name] for name in self.gradients], gradients, scale)

    def again(self, params: Mapping[str, Tensor] | None = None, batch: Any = None) -> Tensor:
        """Evaluate the loss once more, with the same dropout masks, and without moving buffers.

        Args:
            params: by name, in place of the module's own.
            batch: in place of this one.

        Returns:
            Scalar with its graph.
        """
        loss: Tensor = self._functional(_Loss(self.module), params, self.batch if batch is None else batch)
        return loss

    def output(self, x: Tensor) -> Tensor:
        """Evaluate the module's forward once more, likewise.

        Args:
            x: inputs.

        Returns:
            What the module gives for them.
        """
        output: Tensor = self._functional(_Forward(self.module), None, x)
        return output

    def part(self, batch: Any) -> "LossEvaluation":
        """Evaluate the same loss at a piece of the batch.

        Args:
            batch: the piece.

        Returns:
            Its loss and gradient, with dropout masks of its own; buffers do not move.
        """
        return LossEvaluation(self.module, batch, self._needs_graph, self._passes_again, aside=True)

    def twice(self) -> AbstractContextManager[None]:
        """Choose kernels that can be differentiated twice.

        Returns:
            A context.
        """
        return kernels(self.module, True)

    def _functional(self, wrapper: nn.Module, params: Mapping[str, Tensor] | None, argument: Any) -> Any:
        values = {f"module.{name}": value for name, value in (params or {}).items()}
        copies = {name: buffer.clone() for name, buffer in self._buffers.items()}
        replayed: AbstractContextManager[None] = self._random.replayed() if self._random else nullcontext()
        with replayed, kernels(self.module, self._needs_graph):
            return functional_call(wrapper, {**values, **copies}, (argument,))


class _Loss(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Any:
        return self.module.loss(batch)  # type: ignore[operator]


class _Forward(_Loss):
    def forward(self, batch: Any) -> Any:
        return self.module(batch)


@contextmanager
def kernels(module: nn.Module, twice: bool) -> Iterator[None]:
    """Choose kernels that can be differentiated twice, and restore the choice.

    Args:
        module: whose layers are looked at.
        twice: whether that is needed; if not, nothing changes.

    Yields:
        Nothing.
    """
    if not twice:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        with_cudnn = torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
        if not with_cudnn or not any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
            yield
            return
        cudnn = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = False
        try:
            yield
        finally:
            torch.backends.cudnn.enabled = cudnn


def _require_loss(module: nn.Module, params: Mapping[str, Tensor]) -> None:
    name = type(module).__name__
    if not callable(getattr(module, "loss", None)):
        raise UsageError(
            f"penalize got a {name}, which has no method loss(batch).\n"
            "expected: the mean loss over the batch's samples, a scalar\n"
            "write:    def loss(self, batch): x, y = batch; return F.mse_loss(self(x), y)"
        )
    if not params:
        raise UsageError(f"penalize got a {name} without trainable parameters; unfreeze some, or leave the penalty out.")


def _require_scalar(loss: object, module: nn.Module) -> None:
    name = type(module).__name__
    if not isinstance(loss, Tensor) or loss.dim():
        what = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"of type {type(loss).__name__}"
        raise UsageError(f"{name}.loss gave a loss {what}; expected a scalar tensor, the mean over the samples.")
