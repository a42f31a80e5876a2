"""What each arm minimizes: pure functions of (network, params, x, y, coefficient) that give a scalar.

``network(params, x)`` maps ``(B, F)`` to ``(B, 1)``; ``params`` are the tensors of ONE model by name, ``x`` and ``y`` one batch,
standardized; ``coefficient`` is a scalar tensor (a pair for ``l2_parameter_gradient``). L is the mean squared error of the
batch. They are written for `torch.func`: `training.py` maps their gradient over many models at once, which is why every
derivative here is exact and none is a surrogate.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, vmap

Params = dict[str, Tensor]
Network = Callable[[Params, Tensor], Tensor]
Objective = Callable[[Network, Params, Tensor, Tensor, Tensor], Tensor]


def plain(network: Network, params: Params, x: Tensor, y: Tensor, coefficient: Tensor) -> Tensor:
    """No penalty: L = mean_i (f(x_i) - y_i)^2; the coefficient is not used."""
    return (network(params, x) - y).square().mean()


def l2(network: Network, params: Params, x: Tensor, y: Tensor, coefficient: Tensor) -> Tensor:
    """Coupled weight decay: L + c |theta|^2, over weights and biases."""
    return plain(network, params, x, y, coefficient) + coefficient * squared_norm(params)


def parameter_gradient(network: Network, params: Params, x: Tensor, y: Tensor, coefficient: Tensor) -> Tensor:
    """Penalize the gradient of the whole batch: L + c |grad_theta L|^2."""
    gradient = grad(partial(plain, network))(params, x, y, coefficient)
    return plain(network, params, x, y, coefficient) + coefficient * squared_norm(gradient)


def parameter_gradient_micro(network: Network, params: Params, x: Tensor, y: Tensor, coefficient: Tensor, *, rows: int) -> Tensor:
    """Penalize the gradients of micro-batches: L + c sum_k (n_k / B) |grad_theta L_k|^2.

    L_k is the mean over micro-batch k: ``rows`` consecutive rows of the batch, and what remains (n_k rows) in the last one. Where
    ``rows`` divides B, this is the plain mean over micro-batches [Geiping et al. 2022; Novack et al. 2023].
    """
    whole = len(x) // rows * rows  # rows that fill micro-batches
    gradient = grad(partial(plain, network))

    def penalty(x: Tensor, y: Tensor) -> Tensor:
        return squared_norm(gradient(params, x, y, coefficient)) * (len(x) / (whole + rest))

    rest = len(x) - whole
    total = plain(network, params, x, y, coefficient)
    if whole:
        total = total + coefficient * vmap(penalty)(x[:whole].unflatten(0, (-1, rows)), y[:whole].unflatten(0, (-1, rows))).sum()
    if rest:
        total = total + coefficient * penalty(x[whole:], y[whole:])
    return total


def input_gradient(network: Network, params: Params, x: Tensor, y: Tensor, coefficient: Tensor) -> Tensor:
    """Penalize the slope in the inputs: L + c mean_i |d f(x_i) / d x_i|^2, in units of standardized target and inputs."""
    # Row i of the output depends on row i of the input only, so that the gradient of the sum holds every row's own gradient.
    slopes = grad(lambda x: network(params, x).sum())(x)
    return plain(network, params, x, y, coefficient) + coefficient * slopes.square().sum(1).mean()


def sam(network: Network, params: Params, x: Tensor, y: Tensor, coefficient: Tensor) -> Tensor:
    """Sharpness-aware minimization [Foret et al. 2021, ICLR]: L(theta + c g / |g|); g = grad_theta L without graph, c is rho."""
    gradient = grad(partial(plain, network))({name: p.detach() for name, p in params.items()}, x, y, coefficient)
    length = squared_norm(gradient).sqrt().clamp_min(torch.finfo(x.dtype).tiny)  # at a stationary point there is no direction
    moved = {name: p + coefficient * gradient[name] / length for name, p in params.items()}
    return plain(network, moved, x, y, coefficient)


def l2_parameter_gradient(network: Network, params: Params, x: Tensor, y: Tensor, coefficient: Tensor) -> Tensor:
    """Both: L + c_0 |theta|^2 + c_1 |grad_theta L|^2; the second penalizes the gradient of L alone."""
    return parameter_gradient(network, params, x, y, coefficient[1]) + coefficient[0] * squared_norm(params)


def squared_norm(tensors: Params) -> Tensor:
    """Sum of the squares of all entries."""
    return torch.stack([t.square().sum() for t in tensors.values()]).sum()


def objectives(micro_batch: int) -> dict[str, Objective]:
    """Every arm by its name in the results; ``micro_batch`` is in rows."""
    return {
        "none": plain,
        "l2": l2,
        "parameter_gradient": parameter_gradient,
        "parameter_gradient_micro": partial(parameter_gradient_micro, rows=micro_batch),
        "input_gradient": input_gradient,
        "sam": sam,
        "l2_parameter_gradient": l2_parameter_gradient,
    }
