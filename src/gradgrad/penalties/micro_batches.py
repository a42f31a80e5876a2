"""Pieces of a batch."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from gradgrad.derivatives.curvature import sample_count


def micro_batches(batch: Any, size: int) -> Iterator[tuple[int, Any]]:
    """Cut a batch along its first axis.

    Args:
        batch: a tensor, or a mapping, tuple or list of them; the first tensor says how many
            samples there are, and what has not as many goes into every piece.
        size: samples in a piece; the last one may be smaller.

    Yields:
        Number of samples, and a piece of the batch's own structure.
    """
    rows = sample_count(batch)
    for start in range(0, rows, size):
        piece = _map(batch, partial(_rows, rows, start, size))
        yield min(size, rows - start), piece


def _rows(rows: int, start: int, size: int, tensor: Tensor) -> Tensor:
    return tensor[start : start + size] if tensor.dim() and len(tensor) == rows else tensor


def _map(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: _map(part, change) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [_map(part, change) for part in batch]
        return batch._make(parts) if hasattr(batch, "_make") else type(batch)(parts)
    return batch
