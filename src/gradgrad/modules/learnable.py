"""What keeps a network from being meta-learned, found before the first step and said with the remedy."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from gradgrad.adaptation import Execution, Learner, MetaGradient
from gradgrad.adaptation.execution import Mode
from gradgrad.derivatives.double_backward import explain
from gradgrad.errors import UsageError, some

# What torch.func 2.13 says of networks that it cannot take, in short.
REFUSED = ("vmap", "functorch", "torch.func", "Batching rule not implemented")
DROPOUT = "write:    model.init_args.randomness: different (each task its own), or same"


def check_memory(learner: Learner) -> None:
    """Look for layers that remember.

    Args:
        learner: as configured.

    Raises:
        UsageError: running statistics.
    """
    layers = dict(learner.network.named_modules())
    running = [n for n, layer in layers.items() if isinstance(layer, _NormBase) and layer.track_running_stats]
    if running:
        raise UsageError(
            f"MAML got a network with running statistics ({some(running)}): tasks would mix in them, out of order.\n"
            "expected: normalization by each task's own batch (transductive, as in Finn et al. 2017), or by group or layer\n"
            "write:    track_running_stats=False, or nn.GroupNorm, nn.LayerNorm"
        )


def check_randomness(learner: Learner, execution: Execution) -> None:
    """Look for layers that draw random numbers in training.

    Args:
        learner: as configured.
        execution: how the tasks are computed.

    Raises:
        UsageError: there is no word on how tasks share them.
    """
    layers = dict(learner.network.named_modules())
    random = [n for n, layer in layers.items() if isinstance(layer, _DropoutNd) and layer.p > 0]
    if random and execution.randomness == "error":
        raise UsageError(
            f"MAML got a network with dropout ({some(random)}), and no word on how tasks share its random numbers.\n{DROPOUT}"
        )


def check_settings(meta_gradient: MetaGradient, learner: Learner, execution: Execution) -> None:
    """Look for settings that exclude one another.

    Args:
        meta_gradient: as configured.
        learner: as configured.
        execution: how the tasks are computed.

    Raises:
        UsageError: there are some.
    """
    meta_gradient.check(learner)
    if execution.compile and not meta_gradient.compiles:
        kind = type(meta_gradient).__name__ + (" with checkpoint" if getattr(meta_gradient, "checkpoint", False) else "")
        raise UsageError(f"MAML got compile: true with {kind}, which is not compiled.\nwrite:    compile: false")


def check_checkpoints(trainer: Trainer, iterations_per_step: int) -> None:
    """Insist that checkpoints fall on ends of training steps, between which no callback is called.

    Args:
        trainer: with its callbacks.
        iterations_per_step: meta-iterations in each.

    Raises:
        UsageError: one would be saved later than asked for.
    """
    for callback in trainer.checkpoint_callbacks:
        every = getattr(callback, "_every_n_train_steps", 0) if isinstance(callback, ModelCheckpoint) else 0
        epoch = getattr(getattr(trainer, "datamodule", None), "iterations_per_epoch", iterations_per_step)
        if every and epoch % iterations_per_step:
            raise UsageError(
                f"ModelCheckpoint got every_n_train_steps {every}, but an epoch of {epoch} iterations ends with a short step "
                f"of {epoch % iterations_per_step},\nafter which steps of {iterations_per_step} no longer meet it.\n"
                f"write:    data.init_args.iterations_per_epoch: {-(-epoch // iterations_per_step) * iterations_per_step}"
            )
        if every % iterations_per_step:
            raise UsageError(
                f"ModelCheckpoint got every_n_train_steps {every}, and MAML makes {iterations_per_step} iterations per step.\n"
                f"write:    every_n_train_steps: {-(-every // iterations_per_step) * iterations_per_step}, "
                f"or model.init_args.iterations_per_step: a divisor of {every}"
            )


@contextmanager
def explained(mode: str) -> Iterator[None]:
    """Say in a sentence why a network cannot be meta-learned.

    Args:
        mode: how the tasks are computed.

    Yields:
        Nothing.

    Raises:
        UsageError: the network has no second derivative, or ``torch.func`` refuses it.
        RuntimeError: whatever else goes wrong inside.
        UserWarning: a warning that a filter has made an error.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "None of the inputs have requires_grad=True")  # gradients would be lost
            yield
    except UserWarning as warning:
        if "None of the inputs" not in str(warning):
            raise
        raise UsageError(
            "MAML got reentrant checkpointing, through which adapted parameters get no gradient.\n"
            "write:    torch.utils.checkpoint.checkpoint(..., use_reentrant=False), or meta_gradient's checkpoint: true"
        ) from warning
    except (RuntimeError, NotImplementedError) as error:
        if sentence := explain(error, "MAML") if isinstance(error, RuntimeError) else None:
            raise sentence from error
        text = " ".join(str(error).split())
        if "randomness" in text:
            raise UsageError(
                f"MAML got a network that draws random numbers, and no word on how tasks share them.\n{DROPOUT}"
            ) from error
        if mode != "loop" and any(mark in text for mark in REFUSED):
            raise UsageError(
                f"MAML got a network that torch.func refuses: {text[:200]}\n"
                "write:    model.init_args.mode: loop, compile: false (torch.autograd, task by task)"
            ) from error
        raise


def default_mode(learner: Learner, device: torch.device) -> Mode:
    """Choose how tasks are computed, by what was measured: convolutions of one task each are slow on CPUs.

    Args:
        learner: with its network.
        device: where.

    Returns:
        ``loop`` for networks with convolutions on a CPU, else ``vmap``.
    """
    return "loop" if learner.convolves and device.type == "cpu" else "vmap"
