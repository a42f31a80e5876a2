"""The trace of a Hessian, exactly or by Hutchinson's estimate."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gradgrad.derivatives.double_backward import double_backward
from gradgrad.derivatives.params import Params, inner, rebuild, variables
from gradgrad.derivatives.products import scalar, scalar_gradient, vector_gradient
from gradgrad.errors import UsageError


def laplacian(
    f: Callable[[Params], Tensor], params: Params, samples: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    r"""Sum the second derivatives of a scalar, :math:`\Delta f = \operatorname{tr} \nabla^2 f`.

    Exactly by one product with the Hessian per number, all on one graph; or estimated by
    :math:`\frac1n \sum_k v_k^\top H v_k` with random signs :math:`v_k` [Hutchinson 1990], whose variance is
    :math:`\frac2n \sum_{i \ne j} H_{ij}^2`: a diagonal Hessian is met exactly by one sample.

    Args:
        f: maps ``params`` to a scalar.
        params: a tensor, or a dict or tuple of tensors; P numbers in all.
        samples: how many random vectors; None computes all P products.
        generator: of the random signs, on the device of ``params``.

    Returns:
        Scalar; unit: f per squared parameter. Differentiable, unless gradients are off around the call.

    Raises:
        UsageError: f is no scalar or NaN, params not real, fewer than one sample.
    """
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise UsageError(f"laplacian got samples {samples}; expected 1 or more, or None for the exact sum.")
    keep = torch.is_grad_enabled()
    with double_backward("laplacian"):
        at = variables(params, "laplacian")
        slopes = scalar_gradient(scalar(f(rebuild(params, at)), "laplacian"), at, create_graph=True)
        probes = _axes(at) if samples is None else _signs(at, samples, generator)
        terms = [inner(v, vector_gradient(slopes, at, v, create_graph=keep, retain_graph=True)) for v in probes]
        total = torch.stack(terms).sum() if terms else at[0].new_zeros(())
        return total if samples is None else total / samples


def _axes(at: list[Tensor]) -> Iterator[list[Tensor]]:
    for place, tensor in enumerate(at):
        for index in range(tensor.numel()):
            axis = [torch.zeros(other.shape, dtype=other.dtype, device=other.device) for other in at]
            axis[place].view(-1)[index] = 1
            yield axis


def _signs(at: list[Tensor], samples: int, generator: torch.Generator | None) -> Iterator[list[Tensor]]:
    for _ in range(samples):
        yield [
            torch.randint(0, 2, tensor.shape, generator=generator, device=tensor.device).to(tensor.dtype) * 2 - 1 for tensor in at
        ]
