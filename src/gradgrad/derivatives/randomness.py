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
        generators = torch.get_device_module(device)
        # MPS is one device, and its functions take none.
        state = generators.get_rng_state() if device.type == "mps" else generators.get_rng_state(device)
        return cls(torch.get_rng_state(), device, state)

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        if self.device is None:
            return
        generators = torch.get_device_module(self.device)
        if self.device.type == "mps":
            generators.set_rng_state(self.on_device)
        else:
            generators.set_rng_state(self.on_device, self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Go back to this state inside, and let nobody outside notice.

        Yields:
            Nothing.
        """
        outside = self.capture(self.device or torch.device("cpu"))
        self.restore()
        try:
            yield
        finally:
            outside.restore()
