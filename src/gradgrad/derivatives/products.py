"""Gradients and products with Jacobians and Hessians, never the matrices."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradgrad.derivatives.double_backward import double_backward, refuse_silent_losses
from gradgrad.derivatives.params import Params, attached, real_output, rebuild, require_real, variables, vector_entries
from gradgrad.errors import UsageError


def gradient(loss: Callable[[Params], Tensor], params: Params) -> Params:
    r"""Differentiate a scalar, :math:`\nabla L(\theta)`.

    Nothing accumulates in ``.grad``. What ``loss`` does not use gets zeros.

    Args:
        loss: maps ``params`` to a scalar, in units of the loss.
        params: a tensor, or a dict or tuple of tensors.

    Returns:
        Structure and shapes of ``params``; unit: loss per parameter. Differentiable, unless gradients are off around the call; so
        are the results of all functions here.

    Raises:
        UsageError: params not real, or a loss that is no scalar or NaN.
    """
    keep = torch.is_grad_enabled()
    with double_backward("gradient"):
        at = variables(params, "gradient")
        value = scalar(loss(rebuild(params, at)), "gradient")
        refuse_silent_losses(value, [], "gradient")
        return rebuild(params, scalar_gradient(value, at, create_graph=keep))


def vjp(f: Callable[[Params], Tensor], params: Params, vector: Tensor) -> Params:
    r"""Multiply the transposed Jacobian of ``f`` by ``vector``, :math:`J^\top u`.

    Args:
        f: maps ``params`` to a tensor of any shape.
        params: a tensor, or a dict or tuple of tensors.
        vector: shape of f's output.

    Returns:
        Structure and shapes of ``params``.

    Raises:
        UsageError: params not real, or a vector of another shape than f's output.
    """
    keep = torch.is_grad_enabled()
    with double_backward("vjp"):
        at = variables(params, "vjp")
        output = real_output(f(rebuild(params, at)), "vjp")
        (cotangent,) = vector_entries(output, vector, "vjp")
        return rebuild(params, vector_gradient([output], at, [cotangent], create_graph=keep))


def jvp(f: Callable[[Params], Tensor], params: Params, vector: Params) -> Tensor:
    r"""Multiply the Jacobian of ``f`` by ``vector``, :math:`J v`.

    Twice in reverse: :math:`J^\top u` is linear in u, and its inner product with v has the gradient :math:`J v` there. That
    needs no forward-mode rule, which LSTM, attention and ``mse_loss`` lack.

    Args:
        f: maps ``params`` to a tensor of any shape.
        params: a tensor, or a dict or tuple of tensors.
        vector: names and shapes of ``params``.

    Returns:
        Shape of f's output.

    Raises:
        UsageError: params not real, or a vector that does not match.
    """
    keep = torch.is_grad_enabled()
    with double_backward("jvp"):
        tangent = vector_entries(params, vector, "jvp")
        at = variables(params, "jvp")
        output = real_output(f(rebuild(params, at)), "jvp")
        u, pulled = transposed(output, at)
        (result,) = vector_gradient(pulled, [u], tangent, create_graph=keep)
        # Of a linear f this is a constant, which knows u only.
        return attached(result, at[0]) if keep else result


def hvp(loss: Callable[[Params], Tensor], params: Params, vector: Params) -> Params:
    r"""Multiply the Hessian of ``loss`` at ``params`` by ``vector`` without forming it.

    Reverse over reverse, :math:`H v = \nabla_\theta \langle \nabla L(\theta), v \rangle`, at about three gradients
    [Pearlmutter 1994, Neural Computation 6(1)]. For many vectors at one place, :class:`gradgrad.derivatives.HessianOperator`
    keeps the graph and pays half.

    Args:
        loss: maps ``params`` to a scalar, in units of the loss.
        params: a tensor, or a dict or tuple of tensors; P numbers in all.
        vector: same names and shapes as ``params``.

    Returns:
        Structure and shapes of ``params``; unit: loss per squared parameter, times the unit of ``vector``.

    Raises:
        UsageError: names or shapes differ; the message names the first that does. Or a loss that is no scalar or NaN.
    """
    keep = torch.is_grad_enabled()
    with double_backward("hvp"):
        tangent = vector_entries(params, vector, "hvp")
        at = variables(params, "hvp")
        value = scalar(loss(rebuild(params, at)), "hvp")
        refuse_silent_losses(value, [], "hvp")
        slopes = scalar_gradient(value, at, create_graph=True)
        return rebuild(params, vector_gradient(slopes, at, tangent, create_graph=keep))


def ggn_product(model: Callable[[Params], Tensor], loss: Callable[[Tensor], Tensor], params: Params, vector: Params) -> Params:
    r"""Multiply the generalized Gauss-Newton matrix by ``vector``, :math:`J^\top H_L J v`.

    J is the Jacobian of the model's outputs, :math:`H_L` the Hessian of the loss with respect to them. Positive semidefinite
    where the loss is convex in the outputs [Schraudolph 2002, Neural Computation 14(7)].

    Args:
        model: maps ``params`` to outputs of any shape.
        loss: maps outputs to a scalar.
        params: a tensor, or a dict or tuple of tensors.
        vector: same names and shapes as ``params``.

    Returns:
        Structure and shapes of ``params``; unit as for :func:`hvp`.

    Raises:
        UsageError: names or shapes differ, or a loss that is no scalar or NaN.
    """
    keep = torch.is_grad_enabled()
    with double_backward("ggn_product"):
        tangent = vector_entries(params, vector, "ggn_product")
        at = variables(params, "ggn_product")
        output = real_output(model(rebuild(params, at)), "ggn_product")
        u, pulled = transposed(output, at)
        (pushed,) = vector_gradient(pulled, [u], tangent, create_graph=True)
        value = scalar(loss(output), "ggn_product")
        (slope,) = scalar_gradient(value, [output], create_graph=True)
        (curved,) = vector_gradient([slope], [output], [pushed], create_graph=True)
        return rebuild(params, vector_gradient([output], at, [curved], create_graph=keep))


def scalar(value: Tensor, who: str) -> Tensor:
    """Insist on one number.

    Args:
        value: what a loss returned.
        who: the function that was called.

    Returns:
        ``value``.

    Raises:
        UsageError: no tensor, more than one number, or NaN.
    """
    require_real(value, "a loss", who)
    if value.dim():
        raise UsageError(
            f"{who} got a loss of shape {tuple(value.shape)}; expected a scalar.\n"
            "write:    its mean() or sum(), or jvp and vjp for a function with many outputs"
        )
    if value.isnan():
        raise UsageError(
            f"{who} got a loss of nan, which has no derivatives.\n"
            "write:    finite data and parameters; a smaller learning rate, if training came here"
        )
    return value


def scalar_gradient(value: Tensor, at: Sequence[Tensor], create_graph: bool, marked: bool = False) -> list[Tensor]:
    """Differentiate a scalar, with zeros for what it does not depend on.

    Args:
        value: scalar, perhaps a constant.
        at: variables.
        create_graph: whether the result can be differentiated; the graph of ``value`` stays alive only if so.
        marked: let functions that are @once_differentiable leave a mark in the graph, for ``refuse_silent_losses``.

    Returns:
        One tensor for each of ``at``.
    """
    # They leave it only if the cotangent requires a gradient.
    return vector_gradient([value], at, [torch.ones_like(value).requires_grad_(marked)], create_graph)


def transposed(output: Tensor, at: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    r"""Write :math:`J^\top u` as a function of u: it is linear, and the gradient of :math:`\langle J^\top u, v \rangle` is J v.

    Args:
        output: what J is the Jacobian of.
        at: variables.

    Returns:
        u, of the output's shape, and one tensor for each of ``at``, with a graph to u.
    """
    u = torch.zeros_like(output).requires_grad_()
    return u, vector_gradient([output], at, [u], create_graph=True)


def vector_gradient(
    outputs: Sequence[Tensor],
    at: Sequence[Tensor],
    vector: Sequence[Tensor],
    create_graph: bool,
    retain_graph: bool | None = None,
    batched: bool = False,
) -> list[Tensor]:
    """Differentiate an inner product of outputs, with zeros for what they do not depend on.

    Args:
        outputs: tensors, some perhaps constants.
        at: variables.
        vector: one tensor for each of ``outputs``, with its shape.
        create_graph: whether the result can be differentiated.
        retain_graph: whether the graph of ``outputs`` stays alive; as ``create_graph`` unless told.
        batched: whether ``vector`` has several of each, stacked along a first axis; without ``create_graph`` only.

    Returns:
        One tensor for each of ``at``, stacked likewise.
    """
    varying = [(output, v) for output, v in zip(outputs, vector, strict=True) if output.requires_grad]
    if not varying or not at:
        zeros = [torch.zeros_like(tensor) for tensor in at]
        return [attached(zero, tensor) for zero, tensor in zip(zeros, at, strict=True)] if create_graph else zeros
    kept, cotangents = zip(*varying, strict=True)
    # `materialize_grads` gives zeros for unused variables; autograd itself refuses outputs without a graph.
    gradients = torch.autograd.grad(
        kept,
        at,
        cotangents,
        create_graph=create_graph,
        retain_graph=retain_graph,
        is_grads_batched=batched,
        materialize_grads=True,
    )
    if batched:  # zeros come single
        return [g.expand(len(vector[0]), *tensor.shape) for g, tensor in zip(gradients, at, strict=True)]
    if not create_graph:
        return list(gradients)
    # Zeros of unused variables come as leaves, and derivatives of what is linear without a graph.
    return [attached(g, tensor) if g.grad_fn is None else g for g, tensor in zip(gradients, at, strict=True)]
