"""Two callbacks that a checkpoint could not tell apart."""

from collections.abc import Sequence

from lightning.pytorch import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden

from gradgrad.callbacks import HessianSpectrum


def alike(callbacks: Sequence[Callback]) -> str:
    """Name two callbacks that a checkpoint could not tell apart, by Lightning's rule.

    Args:
        callbacks: the trainer's.

    Returns:
        A sentence; empty where there are no such two.
    """
    stateful = [callback for callback in callbacks if is_overridden("state_dict", callback, Callback)]
    keys = [callback.state_key for callback in stateful]
    second = next((callback for n, callback in enumerate(stateful) if keys[n] in keys[:n]), None)
    if isinstance(second, HessianSpectrum):
        return (
            f"the trainer got two HessianSpectrum of the name {second.name}; expected a name for each.\n"
            "write:    --trainer.callbacks.name=second (for the one just appended), or init_args.name in YAML"
        )
    sentence = f"the trainer got two {type(second).__name__}s that a checkpoint could not tell apart.\n"
    return sentence + "write:    one of them, or other init_args for the second" if second else ""
