"""The Hessian and the Gauss-Newton matrix of a loss over a set of batches, as linear maps."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from gradgrad.derivatives.batch_mean import Batch, Graph
from gradgrad.derivatives.curvature import CurvatureOperator, sample_count
from gradgrad.derivatives.double_backward import refuse_silent_losses
from gradgrad.derivatives.params import AnyParams, real_output
from gradgrad.derivatives.products import scalar, scalar_gradient, transposed, vector_gradient
from gradgrad.errors import UsageError


class HessianOperator(CurvatureOperator[Batch]):
    r"""The Hessian of a mean loss, :math:`H = \sum_b \frac{n_b}{N} \nabla^2 L_b`.

    A product costs 1.6 to 2.0 gradients on a graph that is there and held (an inner layer takes 6 matrix products, a gradient
    3), 2.7 with building it; 8 vectors that pass a tiny net together 0.6 each. One CPU thread.

    Args:
        loss: maps a batch to the mean loss over its samples, a scalar.
        params: as for :class:`CurvatureOperator`.
        batches: likewise.
        count: likewise.
        reduce: likewise.

    Raises:
        UsageError: no batches, no trainable parameter; in a product: a loss that is no scalar, NaN or
            independent of params, a vector that does not match, or a module that PyTorch cannot differentiate twice.
    """

    def __init__(
        self,
        loss: Callable[[Batch], Tensor],
        params: AnyParams,
        batches: Iterable[Batch],
        count: Callable[[Batch], float] = sample_count,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(params, batches, count, reduce)
        self.loss = loss

    def _graph(self, batch: Batch) -> Graph:
        loss = _varying(scalar(self.loss(batch), self._who), self._who)
        params = self._params
        slopes = scalar_gradient(loss, params, create_graph=True, marked=True)
        refuse_silent_losses(loss, slopes, self._who)

        def product(vector: list[Tensor], batched: bool) -> list[Tensor]:
            return vector_gradient(slopes, params, vector, create_graph=False, retain_graph=True, batched=batched)

        return Graph(loss.detach(), lambda: [slope.detach() for slope in slopes], product)


class GGNOperator(CurvatureOperator[Batch]):
    r"""The generalized Gauss-Newton matrix of a mean loss, :math:`\sum_b \frac{n_b}{N} J_b^\top H_b J_b`.

    J is the Jacobian of the outputs, :math:`H_b` the Hessian of the loss with respect to them [Schraudolph 2002].

    Args:
        model: maps a batch to outputs, any shape.
        loss: maps outputs and batch to the mean loss over its samples, a scalar.
        params: as for :class:`CurvatureOperator`.
        batches: likewise.
        count: likewise.
        reduce: likewise.

    Raises:
        UsageError: as for :class:`HessianOperator`.
    """

    def __init__(
        self,
        model: Callable[[Batch], Tensor],
        loss: Callable[[Tensor, Batch], Tensor],
        params: AnyParams,
        batches: Iterable[Batch],
        count: Callable[[Batch], float] = sample_count,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(params, batches, count, reduce)
        self.model, self.loss = model, loss

    def _graph(self, batch: Batch) -> Graph:
        outputs = _varying(real_output(self.model(batch), self._who), self._who)
        at = outputs.detach().requires_grad_()
        loss = _varying(scalar(self.loss(at, batch), self._who), self._who)
        (slope,) = scalar_gradient(loss, [at], create_graph=True, marked=True)
        params = self._params
        u, pulled = transposed(outputs, params)
        refuse_silent_losses(outputs, [slope, *pulled], self._who)
        # All three maps below go through graphs that are there, and stay.
        keep: dict[str, Any] = {"create_graph": False, "retain_graph": True}

        def product(vector: list[Tensor], batched: bool) -> list[Tensor]:
            (pushed,) = vector_gradient(pulled, [u], vector, **keep, batched=batched)
            (curved,) = vector_gradient([slope], [at], [pushed], **keep, batched=batched)
            return vector_gradient([outputs], params, [curved], **keep, batched=batched)

        return Graph(loss.detach(), lambda: vector_gradient([outputs], params, [slope.detach()], **keep), product)


def _varying(value: Tensor, who: str) -> Tensor:
    if not value.requires_grad:
        raise UsageError(
            f"{who} got a loss that does not depend on params.\n"
            "write:    params = dict(module.named_parameters()) of the module that the loss uses"
        )
    return value
