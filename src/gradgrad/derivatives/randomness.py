"""The same random numbers again: one dropout mask for every pass over a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class RandomState(NamedTuple):
    """Where PyTorch's generators stand.

    Attributes:
        cpu: state of the CPU's generator.
        device: an accelerator, or None on the CPU.
        on_device: state of its generator, or None.
    """

    cpu: Tensor
    device: torch.device | None
    on_device: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        """Read the generators.

        Args:
            device: where the model is.

        Returns:
            Their states now.
        """
        if device.type == "cpu":
            return cls(torch.get_rng_state(), None, None)
        return cls(torch.get_rng_state(), device, torch.get_device_module(device).get_rng_state(device))

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Go back to this state inside, and let nobody outside notice.

        Yields:
            Nothing.
        """
        devices, kind = ([], "cuda") if self.device is None else ([self.device.index or 0], self.device.type)
        with torch.random.fork_rng(devices=devices, device_type=kind):
            torch.set_rng_state(self.cpu)
            if self.device is not None and self.on_device is not None:
                torch.get_device_module(self.device).set_rng_state(self.on_device, self.device)
            yield
