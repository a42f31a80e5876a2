"""The Hessian and the Gauss-Newton matrix of a loss over a set of batches, as linear maps."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from gradgrad.derivatives.double_backward import double_backward, refuse_silent_losses
from gradgrad.derivatives.operators import LinearOperator
from gradgrad.derivatives.params import AnyParams, entries, ordinary, real_output
from gradgrad.derivatives.products import scalar, scalar_gradient, transposed, vector_gradient
from gradgrad.derivatives.randomness import RandomState
from gradgrad.errors import UsageError

Batch = TypeVar("Batch")
Product = Callable[[list[Tensor]], list[Tensor]]


def sample_count(batch: Any) -> int:
    """Count the samples of a batch.

    Args:
        batch: a tensor, or a mapping or sequence that has one, with samples along the first axis.

    Returns:
        Length of the first tensor that is found.

    Raises:
        UsageError: there is none.
    """
    if isinstance(batch, Tensor) and batch.dim():
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    for part in parts:
        return sample_count(part)
    raise UsageError(
        f"the number of samples in a batch of type {type(batch).__name__} is not known.\n"
        "expected: a tensor, or a tuple or dict that begins with one\nwrite:    count=lambda batch: ..., its number of samples"
    )


def _versions(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor):
        yield 0 if batch.is_inference() else batch._version
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _versions(part)


class CurvatureOperator(LinearOperator, Generic[Batch]):
    r"""The mean over samples of a second derivative, :math:`\sum_b \frac{n_b}{N} A_b`, for any split into batches.

    For each batch the graph is built once and all vectors pass through it; of a lone batch it is kept from call to call, until
    a parameter or the batch changes (make another operator after ``module.eval()``). Dropout masks are the same in all products;
    the random numbers outside, buffers of modules that are called, and ``.grad`` are left alone.

    Args:
        params: tensors that the loss uses themselves, such as ``dict(module.named_parameters())``. Frozen ones are passed
            over, tied ones count once, unused ones give zeros.
        batches: a list, a DataLoader, or anything that can be gone through again; an iterator is made a list.
        count: samples in a batch; the length of its first tensor unless told.

    Raises:
        UsageError: no batches, or no parameter that requires a gradient.
    """

    def __init__(self, params: AnyParams, batches: Iterable[Batch], count: Callable[[Batch], int] = sample_count) -> None:
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
        self._batches = list(batches) if isinstance(batches, Iterator) else batches
        self._count = count
        self.size = sum(p.numel() for p in self._params)
        self.dtype = torch.stack([p.new_zeros(()) for p in self._params]).dtype
        self.device = self._params[0].device
        self._random = RandomState.capture(self.device)
        self._kept: tuple[list[Any], Batch, Product] | None = None

    @abstractmethod
    def _product(self, batch: Batch) -> Product:
        """Build one batch's graph and give the map through it."""

    def _matmat(self, vectors: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return self._pass(ordinary(vectors.detach()))

    def _pass(self, vectors: Tensor) -> Tensor:
        rows = [self._split(row) for row in vectors.T.contiguous()]
        total = torch.zeros_like(vectors.T, memory_format=torch.contiguous_format)  # each vector's numbers side by side
        if self._kept is not None and self._kept[0] == self._state(self._kept[1]):
            with double_backward(self._who):
                self._add(total, self._kept[2], rows, 1)
            return total.T
        self._kept = None
        built, samples = 0, 0
        with self._random.replayed(), double_backward(self._who):
            for batch in self._batches:
                product, count = self._product(batch), self._count(batch)
                self._add(total, product, rows, count)
                built, samples = built + 1, samples + count
        if not samples:
            raise UsageError(f"{self._who} got no {'samples' if built else 'batches'}; expected one at least.")
        if built == 1:
            self._kept = (self._state(batch), batch, product)
        return total.T / samples

    def _state(self, batch: Batch) -> list[Any]:
        # What a kept graph depends on. Changes through `.data` leave no version behind, but hardly ever the same sum.
        alone = self._batches[0] is batch and len(self._batches) == 1 if isinstance(self._batches, Sequence) else True
        sums = torch.stack([p.detach().sum() for p in self._params]).tolist()
        return [alone, sums, *((p.data_ptr(), p._version) for p in self._params), *_versions(batch)]

    def _add(self, total: Tensor, product: Product, rows: list[list[Tensor]], count: int) -> None:
        for k, row in enumerate(rows):
            flat = torch.cat([piece.reshape(-1).to(self.dtype) for piece in product(row)])
            total[k].add_(flat, alpha=count)

    def _loss(self, value: Tensor) -> Tensor:
        return self._depends(scalar(value, self._who))

    def _depends(self, value: Tensor) -> Tensor:
        if not value.requires_grad:
            raise UsageError(
                f"{self._who} got a loss that does not depend on params.\n"
                "write:    params = dict(module.named_parameters()) of the module that the loss uses"
            )
        return value

    def _split(self, vector: Tensor) -> list[Tensor]:
        pieces = torch.split(vector, [p.numel() for p in self._params])
        return [piece.view(p.shape).to(p.dtype) for piece, p in zip(pieces, self._params, strict=True)]


class HessianOperator(CurvatureOperator[Batch]):
    r"""The Hessian of a mean loss, :math:`H = \sum_b \frac{n_b}{N} \nabla^2 L_b`.

    A product costs about 1.5 gradients on a graph that is there already, 3 with building it.

    Args:
        loss: maps a batch to the mean loss over its samples, a scalar.
        params: as for :class:`CurvatureOperator`.
        batches: likewise.
        count: likewise.

    Raises:
        UsageError: no batches, no trainable parameter; in a product: a loss that is no scalar, NaN or
            independent of params, a vector that does not match, or a module that PyTorch cannot differentiate twice.
    """

    def __init__(
        self,
        loss: Callable[[Batch], Tensor],
        params: AnyParams,
        batches: Iterable[Batch],
        count: Callable[[Batch], int] = sample_count,
    ) -> None:
        super().__init__(params, batches, count)
        self.loss = loss

    def _product(self, batch: Batch) -> Product:
        loss = self._loss(self.loss(batch))
        slopes = scalar_gradient(loss, self._params, create_graph=True, marked=True)
        refuse_silent_losses(loss, slopes, self._who)
        return lambda v: vector_gradient(slopes, self._params, v, create_graph=False, retain_graph=True)


class GGNOperator(CurvatureOperator[Batch]):
    r"""The generalized Gauss-Newton matrix of a mean loss, :math:`\sum_b \frac{n_b}{N} J_b^\top H_b J_b`.

    J is the Jacobian of the outputs, :math:`H_b` the Hessian of the loss with respect to them [Schraudolph 2002].

    Args:
        model: maps a batch to outputs, any shape.
        loss: maps outputs and batch to the mean loss over its samples, a scalar.
        params: as for :class:`CurvatureOperator`.
        batches: likewise.
        count: likewise.

    Raises:
        UsageError: as for :class:`HessianOperator`.
    """

    def __init__(
        self,
        model: Callable[[Batch], Tensor],
        loss: Callable[[Tensor, Batch], Tensor],
        params: AnyParams,
        batches: Iterable[Batch],
        count: Callable[[Batch], int] = sample_count,
    ) -> None:
        super().__init__(params, batches, count)
        self.model, self.loss = model, loss

    def _product(self, batch: Batch) -> Product:
        outputs = self._depends(real_output(self.model(batch), self._who))
        at = outputs.detach().requires_grad_()
        (slope,) = scalar_gradient(self._loss(self.loss(at, batch)), [at], create_graph=True, marked=True)
        u, pulled = transposed(outputs, self._params)
        refuse_silent_losses(outputs, [slope, *pulled], self._who)

        def product(vector: list[Tensor]) -> list[Tensor]:
            (pushed,) = vector_gradient(pulled, [u], vector, create_graph=False, retain_graph=True)
            (curved,) = vector_gradient([slope], [at], [pushed], create_graph=False, retain_graph=True)
            return vector_gradient([outputs], self._params, [curved], create_graph=False, retain_graph=True)

        return product
