"""All random number generators of a process: Python's, NumPy's, PyTorch's on the CPU and on the device."""

import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Read the states.

    Args:
        device: that this process computes on.

    Returns:
        Plain values and tensors on the CPU, which a checkpoint without code may hold.
    """
    kind, words, *rest = np.random.get_state()  # the generator that others draw from
    states = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(words).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    elif device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the states.

    Args:
        states: of :func:`random_states`.
        device: that this process computes on; on another kind of device than before, its own stream stays as it is.
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, key, *rest = states["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "device" in states and device.type == "mps":
        torch.mps.set_rng_state(states["device"])
    elif "device" in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"], device)
