"""Means over the samples of all batches and processes, with the graph of a lone batch kept from one to the next."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from gradgrad.derivatives.double_backward import double_backward
from gradgrad.derivatives.randomness import RandomState
from gradgrad.errors import UsageError

Batch = TypeVar("Batch")
# Up to here four vectors or more pass a graph together: samples times parameters, and numbers in the batch. On one CPU thread
# (MLPs of 465 to 69,000 parameters, CNNs of 14x14 to 64x64 pixels, 8 vectors) that was 1.1 to 4 times faster below, up to 1.9
# times slower above. For accelerators it is a guess: below, one product takes less time than its launches.
TOGETHER = {"cpu": (4e5, 1.6e4)}
TOGETHER_ELSEWHERE = (1e8, 4e6)


class Graph(NamedTuple):
    """One batch's loss, ready to be differentiated twice.

    Attributes:
        loss: its value, the mean over the batch.
        gradient: gives the gradient, one tensor for each parameter.
        product: maps a vector, one tensor for each parameter, to the product; or K of each, stacked, if told that they are.
    """

    loss: Tensor
    gradient: Callable[[], list[Tensor]]
    product: Callable[[list[Tensor], bool], list[Tensor]]


class Part(NamedTuple):
    """One batch of the mean.

    Attributes:
        graph: of its loss.
        samples: how many, its weight.
        small: whether vectors had better pass together.
    """

    graph: Graph
    samples: float
    small: bool


Visit = Callable[[Tensor, Part, float, bool], None]  # the sum so far, a part, its weight, whether it is the first


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Find tensors, at any depth of mappings, tuples and lists.

    Args:
        batch: anything.

    Yields:
        Each tensor, in order.
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_of(part)


class BatchMean(Generic[Batch]):
    """What is a mean over samples, summed batch by batch and process by process, and divided once.

    Args:
        who: the operator, for messages.
        params: what the graphs depend on.
        batches: anything that can be gone through again.
        count: weight of a batch, that of 0 is passed over.
        reduce: adds a flat tensor over all processes; None for a single one.
    """

    def __init__(
        self,
        who: str,
        params: Sequence[Tensor],
        batches: Iterable[Batch],
        count: Callable[[Batch], float],
        reduce: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self._who, self._params, self._batches = who, params, batches
        self._count, self._reduce = count, reduce
        self._size = sum(p.numel() for p in params)
        self._random = RandomState.capture(params[0].device)
        self._kept: tuple[list[Any], Batch, Part] | None = None
        self._held = self._checked = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Trust inside that nothing changes, once a graph was found fresh.

        Yields:
            Nothing.
        """
        if self._held:
            yield
            return
        with double_backward(self._who):
            self._held, self._checked = True, False
            try:
                yield
            finally:
                self._held = False

    def mean(self, shape: tuple[int, ...], dtype: torch.dtype, build: Callable[[Batch], Graph], visit: Visit) -> Tensor:
        """Sum what a visitor adds, over batches and processes, then divide by the sum of weights.

        Args:
            shape: of the mean.
            dtype: of the mean.
            build: gives one batch's graph. It is no attribute, or a graph that is kept would hold its operator, and itself.
            visit: adds a part, times its weight, to the sum; the first time there is none, and it writes.

        Returns:
            The mean, without a graph.

        Raises:
            UsageError: no samples, or a failure in another process.
            Exception: a failure in this one.
        """
        with torch.inference_mode(False):
            if self._reduce is None:
                total = torch.empty(shape, dtype=dtype, device=self._params[0].device)
                samples = self._sum(total, build, visit)
            else:
                total, samples = self._reduced(shape, dtype, lambda sums: self._sum(sums, build, visit), self._reduce)
            if not samples > 0:
                raise UsageError(f"{self._who} got no samples; expected one at least.")
            return total if samples == 1 else total.div_(samples)

    def _reduced(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        fill: Callable[[Tensor], float],
        reduce: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, float]:
        numbers, samples, failure = math.prod(shape), 0.0, None
        flat = torch.empty(numbers + 2, dtype=dtype, device=self._params[0].device)  # sums, samples, failures
        try:
            samples = fill(flat[:numbers].view(shape))
        except Exception as error:  # the others wait in `reduce`
            failure = error
        flat[numbers:] = torch.tensor([samples, failure is not None])
        flat = reduce(flat)
        if failure is not None:
            raise failure
        samples, failures = flat[numbers:].tolist()
        if failures:
            raise UsageError(f"{self._who} stopped, because it failed in another process, whose message says why.")
        return flat[:numbers].view(shape), samples

    def _sum(self, total: Tensor, build: Callable[[Batch], Graph], visit: Visit) -> float:
        """Visit all batches; the sum of their weights."""
        with torch.enable_grad() if self._held else double_backward(self._who):
            if (kept := self._still()) is not None:
                weight = 1.0 if self._reduce is None else kept.samples
                visit(total, kept, weight, True)
                return weight
            with self._random.replayed():
                return self._sum_anew(total, build, visit)

    def _sum_anew(self, total: Tensor, build: Callable[[Batch], Graph], visit: Visit) -> float:
        samples, unit, built, part = 0.0, 1.0, 0, None
        for batch in self._batches:
            if (count := float(self._count(batch))) <= 0:
                continue
            part = self._kept = None  # frees a graph before the next is built
            part = Part(build(batch), count, self._small(batch, count))
            if not built and self._reduce is None:
                unit = count  # a lone batch weighs exactly 1, as on a graph that is kept
            visit(total, part, count / unit, not built)
            built, samples = built + 1, samples + count / unit
            if built == 1:
                self._kept, self._checked = (self._state(batch), batch, part), True
        if not built:
            total.zero_()
        elif built > 1:
            self._kept = None
        return samples

    def _still(self) -> Part | None:
        """Look at the graph that is kept, and drop it if it is stale."""
        if self._kept is None:
            return None
        state, batch, part = self._kept
        if not (self._held and self._checked) and state != self._state(batch):
            self._kept = None
            return None
        self._checked = True
        return part

    def _state(self, batch: Batch) -> list[Any]:
        # What a kept graph depends on. Changes through `.data` leave no version behind, but hardly ever the same sum.
        place = (len(self._batches), self._batches[0] is batch) if isinstance(self._batches, Sequence) else None
        sums = torch.stack([p.detach().sum() for p in self._params]).tolist()
        data = (0 if tensor.is_inference() else tensor._version for tensor in tensors_of(batch))
        return [place, sums, *((p.data_ptr(), p._version) for p in self._params), *data]

    def _small(self, batch: Batch, count: float) -> bool:
        work, numbers = TOGETHER.get(self._params[0].device.type, TOGETHER_ELSEWHERE)
        return count * self._size <= work and sum(tensor.numel() for tensor in tensors_of(batch)) <= numbers
