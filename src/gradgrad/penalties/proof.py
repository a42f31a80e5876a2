"""The first step, tried before it is taken: can this module be differentiated twice?"""

from typing import Any

import torch
from torch import nn

from gradgrad.derivatives.double_backward import explain, refuse_silent_losses
from gradgrad.derivatives.randomness import RandomState
from gradgrad.errors import UsageError
from gradgrad.penalties.evaluation import LossEvaluation
from gradgrad.penalties.penalty import Penalty

OTHERWISE = "method: finite_difference, which needs no second derivative"


def prove(penalty: Penalty, module: nn.Module, batch: Any) -> None:
    """Compute the penalty's gradient once and throw it away; touch neither buffers nor random numbers.

    Args:
        penalty: to be added.
        module: to be differentiated.
        batch: the first one.

    Raises:
        UsageError: PyTorch cannot differentiate the module twice; the message names the part that is in the way, and the remedy.
        RuntimeError: whatever else goes wrong.
    """
    who = type(penalty).__name__
    _refuse_sharding(module, who)
    try:
        with RandomState.capture(_device(module)).replayed():
            evaluation = LossEvaluation(module, batch, penalty.needs_graph, penalty.passes_again, aside=True)
            evaluation.require_gradient()
            term = penalty.term(evaluation, penalty.weight)
            if penalty.needs_graph:
                refuse_silent_losses(evaluation.loss, list(evaluation.gradients.values()), who)
            if term.value.requires_grad:
                torch.autograd.grad(term.value, list(evaluation.params.values()), allow_unused=True)
    except RuntimeError as error:
        sentence = explain(error, who)
        if sentence is None:
            raise
        culprits = _culprits(module, str(error))
        where = f" ({culprits})" if culprits else ""
        first, _, rest = str(sentence).partition("\n")
        raise UsageError(f"{first.removesuffix('.')}{where}.\n{rest}\nor:       {OTHERWISE}") from error


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _culprits(module: nn.Module, error: str) -> str:
    def guilty(layer: nn.Module) -> bool:
        if "aot_autograd" in error or "donated buffers" in error:
            return isinstance(layer, torch._dynamo.OptimizedModule) or layer._compiled_call_impl is not None
        if "_cudnn_rnn" in error:
            return isinstance(layer, nn.RNNBase)
        return ("_scaled_dot_product" in error or "No available kernel" in error) and isinstance(layer, nn.MultiheadAttention)

    return ", ".join(name or type(module).__name__ for name, layer in module.named_modules() if guilty(layer))


def _refuse_sharding(module: nn.Module, who: str) -> None:
    for name, layer in module.named_modules():
        if any(kind.__name__ in ("FullyShardedDataParallel", "FSDPModule") for kind in type(layer).__mro__):
            raise UsageError(
                f"{who} got parameters that FSDP shards in {name or type(module).__name__}; it cannot be differentiated twice.\n"
                "write:    trainer.strategy: ddp"
            )
