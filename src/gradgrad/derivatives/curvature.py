"""The mean over samples of a second derivative, as a linear map: what the Hessian and the Gauss-Newton matrix share."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic

import torch
from torch import Tensor

from gradgrad.derivatives.batch_mean import Batch, BatchMean, Graph, Part, tensors_of
from gradgrad.derivatives.operators import LinearOperator
from gradgrad.derivatives.params import AnyParams, entries, ordinary
from gradgrad.errors import UsageError


def sample_count(batch: Any) -> int:
    """Count the samples of a batch.

    Args:
        batch: a tensor, or a mapping or sequence that has one, with samples along the first axis.

    Returns:
        Length of the first tensor that is found, at any depth.

    Raises:
        UsageError: there is none.
    """
    for tensor in tensors_of(batch):
        if tensor.dim():
            return len(tensor)
    raise UsageError(
        f"the number of samples in a batch of type {type(batch).__name__} is not known.\n"
        "expected: a tensor, or a tuple or dict that has one\nwrite:    count=lambda batch: ..., its number of samples"
    )


class CurvatureOperator(LinearOperator, Generic[Batch]):
    r"""The mean over samples of a second derivative, :math:`\sum_b \frac{n_b}{N} A_b`, for any split into batches.

    For each batch the graph is built once, all vectors pass through it, and it is freed before the next is built; of a lone
    batch it is kept from call to call, until a parameter or the batch changes (make another operator after ``module.eval()``).
    Dropout masks are the same in all products; the random numbers outside, buffers of modules that are called, and ``.grad``
    are left alone.

    Args:
        params: tensors that the loss uses themselves, such as ``dict(module.named_parameters())``. Frozen ones are passed
            over, tied ones count once, unused ones give zeros. The operator's dtype is float32 at least.
        batches: a list, a DataLoader, or anything that can be gone through again; an iterator is made a list.
        count: samples in a batch, or what else its loss is a mean over, such as tokens; the length of its first tensor unless
            told. Batches of 0 are passed over.
        reduce: adds a flat tensor over all processes, such as an all-reduce; called once for each call here, also where this
            process has no samples or fails, so that all divide by the same count and all raise.

    Raises:
        UsageError: no batches, or no parameter that requires a gradient.
    """

    def __init__(
        self,
        params: AnyParams,
        batches: Iterable[Batch],
        count: Callable[[Batch], float] = sample_count,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._who = type(self).__name__
        distinct = {id(tensor): tensor for tensor in entries(params, self._who).values() if tensor.requires_grad}
        self._params = list(distinct.values())
        if not self._params:
            raise UsageError(
                f"{self._who} got no parameter that requires a gradient.\n"
                "write:    dict(module.named_parameters()), and freeze fewer"
            )
        if any(p.is_inference() for p in self._params):
            raise UsageError(f"{self._who} got parameters made under torch.inference_mode; make the module outside it.")
        if isinstance(batches, Tensor) or (isinstance(batches, tuple) and all(isinstance(part, Tensor) for part in batches)):
            raise UsageError(f"{self._who} got one batch; expected several.\nwrite:    [batch]")
        again = list(batches) if isinstance(batches, Iterator) else batches
        self._batches = BatchMean(self._who, self._params, again, count, reduce)
        self._shapes, self._sizes = [p.shape for p in self._params], [p.numel() for p in self._params]
        self.size = sum(self._sizes)
        self.dtype = torch.stack(
            [torch.zeros((), dtype=p.dtype) for p in self._params] + [torch.zeros((), dtype=torch.float32)]
        ).dtype
        self.device = self._params[0].device
        self._alike = all(p.dtype == self.dtype and p.device == self.device for p in self._params)
        self._together = True

    @abstractmethod
    def _graph(self, batch: Batch) -> Graph:
        """Build one batch's graph."""

    def held(self) -> AbstractContextManager[None]:
        """Promise that parameters, batches and modes stay as they are inside, so that products need not look each time.

        Returns:
            To be entered around several products, with arithmetic on vectors between them.
        """
        return self._batches.held()

    def gradient(self) -> Tensor:
        """Give the mean gradient over the samples, from a graph that is kept, else in one pass.

        Returns:
            Shape ``(P,)``, in this operator's dtype.
        """
        return self.loss_and_gradient()[1]

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Give the mean loss over the samples and its gradient, from a graph that is kept, else in one pass.

        Returns:
            A scalar, and a tensor of shape ``(P,)``.
        """
        sizes = [1, *self._sizes]

        def visit(total: Tensor, part: Part, weight: float, first: bool) -> None:
            self._add(total, [part.graph.loss, *part.graph.gradient()], sizes, weight, first)

        numbers = self._batches.mean((1 + self.size,), self.dtype, self._graph, visit)
        return numbers[0], numbers[1:]

    def _matmat(self, vectors: Tensor) -> Tensor:
        def visit(total: Tensor, part: Part, weight: float, first: bool) -> None:
            rows = ordinary(vectors.detach()).T
            if part.small and len(rows) >= 4 and self._together:
                try:
                    products = part.graph.product(self._split(rows), True)
                except RuntimeError:  # an operation that cannot be batched, or memory
                    self._together = False
                else:
                    return self._add(total, products, self._sizes, weight, first)
            alone = len(rows) == 1  # the common case, without a view of a view
            for row, into in [(rows.squeeze(0), total.squeeze(0))] if alone else zip(rows, total, strict=True):
                self._add(into, part.graph.product(self._split(row.contiguous()), False), self._sizes, weight, first)
            return None

        return self._batches.mean(
            (vectors.shape[1], self.size), self.dtype, self._graph, visit
        ).T  # each vector's numbers side by side

    def _split(self, vectors: Tensor) -> list[Tensor]:
        pieces = torch.split_with_sizes(vectors, self._sizes, -1)
        shaped = [piece.reshape((*vectors.shape[:-1], *shape)) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return shaped if self._alike else [piece.to(p) for piece, p in zip(shaped, self._params, strict=True)]

    def _add(self, total: Tensor, pieces: Sequence[Tensor], sizes: list[int], weight: float, first: bool) -> None:
        """Add tensors, side by side, straight into the sum; the first time, write them there."""
        flat = [piece.reshape((*total.shape[:-1], size)) for piece, size in zip(pieces, sizes, strict=True)]
        if not self._alike:
            flat = [piece.to(total) for piece in flat]
        if first:
            torch.cat(flat, -1, out=total)
            if weight != 1:
                total.mul_(weight)
            return
        for part, piece in zip(torch.split_with_sizes(total, sizes, -1), flat, strict=True):
            part.add_(piece, alpha=weight)
