"""One tensor, or tensors by name or by place: what is differentiated with respect to."""

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from gradgrad.errors import UsageError

AnyParams = Tensor | Mapping[str, Tensor] | Sequence[Tensor]
Params = TypeVar("Params", bound=AnyParams)


def entries(params: AnyParams, who: str = "gradgrad") -> dict[str, Tensor]:
    """Name every tensor.

    Args:
        params: a tensor, a mapping or a sequence of tensors.
        who: the function that was called, for the message.

    Returns:
        Tensors by name; places count as names, and a lone tensor is called ``x``.

    Raises:
        UsageError: none at all, or something else than real floating-point tensors.
    """
    if isinstance(params, Tensor):
        named = {"x": params}
    elif isinstance(params, Mapping):
        named = {str(name): tensor for name, tensor in params.items()}
    elif isinstance(params, Sequence) and not isinstance(params, str):
        named = {str(place): tensor for place, tensor in enumerate(params)}
    else:
        raise UsageError(
            f"{who} got {type(params).__name__}; expected a tensor, or a dict or tuple of tensors.\n"
            "write:    dict(module.named_parameters()), for example"
        )
    if not named:
        raise UsageError(f"{who} got no tensors; expected one at least, for example dict(module.named_parameters()).")
    for name, tensor in named.items():
        require_real(tensor, f"{name!r}", who)
    return named


def require_real(tensor: object, name: str, who: str) -> None:
    """Refuse what has no real derivative.

    Args:
        tensor: what was given.
        name: what to call it in the message.
        who: the function that was called.

    Raises:
        UsageError: no tensor, or one of integers, booleans or complex numbers.
    """
    if not isinstance(tensor, Tensor):
        raise UsageError(f"{who} got {name} of type {type(tensor).__name__}; expected a floating-point tensor.")
    if not tensor.is_floating_point():
        advice = "differentiate with respect to real and imaginary part" if tensor.is_complex() else "x.double()"
        raise UsageError(
            f"{who} got {name} of dtype {str(tensor.dtype).removeprefix('torch.')}; expected real floating-point numbers.\n"
            f"write:    {advice}"
        )


def real_output(output: object, who: str) -> Tensor:
    """Insist on a function that gives one real tensor.

    Args:
        output: what it gave.
        who: the function that was called.

    Returns:
        ``output``.

    Raises:
        UsageError: no tensor, or one of integers, booleans or complex numbers.
    """
    require_real(output, "an output", who)
    return cast(Tensor, output)


def attached(value: Tensor, variable: Tensor) -> Tensor:
    """Make a constant a function of a variable, with a derivative of zero, so that it can be differentiated like any other.

    Args:
        value: without graph.
        variable: requires a gradient; any shape.

    Returns:
        The same numbers; derivatives are zeros also where ``variable`` is not finite, which a product with 0 would not give.
    """
    never = torch.zeros((), dtype=torch.bool, device=variable.device)
    return value + torch.where(never, variable.sum(), 0).to(value)


def rebuild(params: Params, tensors: Sequence[Tensor]) -> Params:
    """Put tensors into the structure of ``params``.

    Args:
        params: the structure.
        tensors: one for each entry, in its order.

    Returns:
        The same structure (a ``dict`` for any mapping) around ``tensors``.
    """
    built: AnyParams
    if isinstance(params, Tensor):
        built = tensors[0]
    elif isinstance(params, Mapping):
        built = dict(zip(params, tensors, strict=True))
    elif hasattr(params, "_make"):  # a named tuple
        built = params._make(tensors)
    else:
        built = type(params)(tensors)  # type: ignore[call-arg]
    return cast(Params, built)


def vector_entries(params: AnyParams, vector: AnyParams, who: str) -> list[Tensor]:
    """Lay a vector along ``params``.

    Args:
        params: tensors by name.
        vector: the same names and shapes; a mapping may have another order.
        who: the function that was called.

    Returns:
        The vector's tensors in the order of ``params``.

    Raises:
        UsageError: names or shapes differ; the message names the first that does.
    """
    named, given = entries(params, who), entries(vector, who)
    for name in [*named, *given]:
        if name not in given or name not in named:
            there, missing = ("params", "the vector") if name in named else ("the vector", "params")
            raise UsageError(
                f"{who} got a vector that does not match: {there} has an entry {name!r}, {missing} has none.\n"
                "write:    one tensor for each of params, with its name and shape"
            )
        if given[name].shape != named[name].shape:
            raise UsageError(
                f"{who} got a vector whose entry {name!r} has shape {tuple(given[name].shape)}; "
                f"params have {tuple(named[name].shape)}.\n"
                "write:    one tensor for each of params, with its name and shape"
            )
    return [ordinary(given[name]) for name in named]


def variables(params: AnyParams, who: str) -> list[Tensor]:
    """Make each tensor a variable of its own to differentiate with respect to.

    Another name for the same numbers: what a function captures of the tensor itself stays a constant (no perturbation confusion),
    and derivatives of the result flow back into the original.

    Args:
        params: tensors by name.
        who: the function that was called.

    Returns:
        Tensors that require a gradient, in the order of ``params``.
    """
    return [_variable(tensor) for tensor in entries(params, who).values()]


def _variable(tensor: Tensor) -> Tensor:
    tensor = ordinary(tensor)
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def ordinary(tensor: Tensor) -> Tensor:
    """Copy a tensor that was made under ``torch.inference_mode``, because autograd may not save it.

    Args:
        tensor: any; call this where inference mode is off.

    Returns:
        The tensor itself, or a copy.
    """
    return tensor.clone() if tensor.is_inference() else tensor


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Sum the products of all entries.

    Args:
        left: tensors, at least one.
        right: tensors of the same shapes.

    Returns:
        Scalar.
    """
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()
