"""The surroundings in which PyTorch can differentiate a gradient, and what to say where it cannot."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from gradgrad.errors import UsageError

COMPILED = (
    "a module compiled by torch.compile, through which PyTorch cannot differentiate twice",
    "use the module uncompiled here (compiled._orig_mod), or compile the whole product with torch.func.grad inside",
)
FUSED = (
    "fused attention, which has no second derivative",
    "with torch.nn.attention.sdpa_kernel(SDPBackend.MATH): around it, or force no other kernel",
)
# What PyTorch 2.13 says, and what it means: the culprit and the remedy.
EXPLANATIONS = {
    "aot_autograd does not currently support double backward": COMPILED,
    "donated buffers": COMPILED,
    "_scaled_dot_product": FUSED,
    "No available kernel": FUSED,
    "Recomputed values": (
        "a checkpoint that recomputes with other kernels than it ran with",
        "with torch.nn.attention.sdpa_kernel(SDPBackend.MATH): inside the function that is checkpointed",
    ),
    "_cudnn_rnn_backward": (
        "a cuDNN recurrent layer, which has no second derivative",
        "with torch.backends.cudnn.flags(enabled=False): around its forward pass",
    ),
    "nference tensor": (  # "Inference tensors cannot be saved for backward", "Cannot set version_counter for inference tensor"
        "tensors made under torch.inference_mode, which autograd may not use",
        "Trainer(inference_mode=False), or batch.clone() under torch.inference_mode(False)",
    ),
}


def explain(error: RuntimeError, who: str) -> UsageError | None:
    """Say in a sentence why a second derivative failed.

    Args:
        error: what PyTorch raised.
        who: what was being computed.

    Returns:
        The sentence, or None where the error means something else.
    """
    text = str(error)
    for mark, (culprit, remedy) in EXPLANATIONS.items():
        if mark in text:
            return UsageError(f"{who} got {culprit}.\nwrite:    {remedy}")
    if text.startswith("derivative for aten::"):
        operation = text.removeprefix("derivative for aten::").split()[0]
        return UsageError(
            f"{who} got the operation {operation}, which has no second derivative in PyTorch.\n"
            "write:    the same in operations that have one, or method: finite_difference for a penalty"
        )
    return None


@contextmanager
def double_backward(who: str, autocast: bool = False) -> Iterator[None]:
    """Let everything inside be differentiated twice, and leave no trace.

    Gradients on, inference mode and autocast off, attention by its MATH kernel (the fused ones have no second derivative), no
    cuDNN in recurrent layers, compiled modules run uncompiled. Buffers, such as BatchNorm's running statistics, are as before
    afterwards.

    Args:
        who: the function that was called, for the messages.
        autocast: leave autocast as it is.

    Yields:
        Nothing.

    Raises:
        UsageError: PyTorch cannot differentiate this twice; the message names what, and the remedy.
        RuntimeError: whatever else goes wrong inside.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if not autocast:
            stack.enter_context(full_precision())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Using `torch.compile\\(module\\)` when there are global hooks")  # nothing compiles
        stack.enter_context(module_surroundings())
        try:
            yield
        except RuntimeError as error:
            if sentence := explain(error, who):
                raise sentence from error
            raise


# Nodes through which `torch.autograd.grad` loses terms without a word, and what to say instead.
SILENT = {
    "CheckpointFunctionBackward": (
        "reentrant checkpointing, which torch.autograd.grad cannot pass",
        "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
    ),
    "torch::autograd::Error": (  # the node that @once_differentiable leaves
        "a function marked @once_differentiable, which has no second derivative",
        "its formula in differentiable operations",
    ),
}


def refuse_silent_losses(loss: Tensor, gradients: Sequence[Tensor], who: str) -> None:
    """Look for what PyTorch would pass over without a word: reentrant checkpoints and functions that are once differentiable.

    Args:
        loss: with its graph.
        gradients: of the loss, with their graph.
        who: the function that was called.

    Raises:
        UsageError: there is one.
    """
    found, stack = set(), [loss.grad_fn, *(g.grad_fn for g in gradients)]
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        found.add(node)
        if node.name() in SILENT:
            culprit, remedy = SILENT[node.name()]
            raise UsageError(f"{who} got {culprit}.\nwrite:    {remedy}")
        stack.extend(following for following, _ in node.next_functions)


@contextmanager
def full_precision() -> Iterator[None]:
    """Turn autocast off inside.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        for device_type in _autocasting():
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


def _autocasting() -> list[str]:
    kinds = {"cpu", torch.accelerator.current_accelerator().type} if torch.accelerator.is_available() else {"cpu"}  # type: ignore[union-attr]
    return [kind for kind in kinds if torch.is_autocast_enabled(kind)]


@contextmanager
def module_surroundings() -> Iterator[None]:
    """Let modules work on copies of their buffers, and recurrent ones without cuDNN.

    Yields:
        Nothing.
    """
    originals: list[dict[str, Tensor | None]] = []
    cudnn = torch.backends.cudnn.enabled

    def before(module: nn.Module, _inputs: Any) -> None:
        originals.append(dict(module._buffers))
        # Copies, never the original written over: a graph may have saved it.
        module._buffers.update({name: b if b is None else b.clone() for name, b in module._buffers.items()})
        if isinstance(module, nn.RNNBase):
            torch.backends.cudnn.enabled = False

    def after(module: nn.Module, _inputs: Any, _output: Any) -> None:
        module._buffers.update(originals.pop())

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        torch.backends.cudnn.enabled = cudnn
