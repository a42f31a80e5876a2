"""A function of tensors as one compiled program, without the checks that cost more than the program."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gradgrad.errors import UsageError


def compiled(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    """Trace a function into PyTorch's basic operations, and compile these.

    Derivatives are traced like anything else, so that ``torch.func.grad`` and ``vmap`` cost nothing afterwards. The program is
    right for inputs of these shapes, dtypes and devices, and for the modes of the networks inside, only: the caller looks after
    that, and ``torch.compile`` is told to trust her. On a small program its checks take a quarter of the time.

    Args:
        function: maps tensors to tensors; pure, all it depends on among its inputs.
        inputs: of the right kinds.

    Returns:
        The function, compiled.

    Raises:
        UsageError: there is no C++ compiler for the CPU.
    """
    examples = [tensor.detach() for tensor in inputs]
    with torch.no_grad():
        program = make_fx(function, tracing_mode="fake")(*examples)
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    if examples[0].device.type == "cpu":
        options["cpp_wrapper"] = True  # kernels called from C++: a fifth less
    run: Callable[..., list[Tensor]] = torch.compile(program.forward, fullgraph=True, dynamic=False, options=options)
    try:
        with torch.no_grad():
            run(*examples)
    except Exception as error:
        if "compiler" in str(error).lower() and examples[0].device.type == "cpu":
            raise UsageError(
                f"compile: true needs a C++ compiler, and PyTorch found none that works: {str(error).splitlines()[0][:150]}\n"
                "write:    compile: false, or install g++ or clang (or set CXX)"
            ) from error
        raise
    return run


def autocast_state(device_type: str) -> torch.dtype | None:
    """Tell what autocast would do.

    Args:
        device_type: for example ``cpu``.

    Returns:
        The dtype that it casts to; None where it is off.
    """
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
