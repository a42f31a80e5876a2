"""The samples on which curvature is measured: fixed, seeded, the same at every measurement."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset, Subset

from gradgrad.errors import UsageError
from gradgrad.penalties.micro_batches import micro_batches

Which = int | Literal["train", "val"]
SAMPLES = 256
NUMBERS = 2**18  # in a batch of a whole part, if the loader's own batches are smaller: a guess, a megabyte of inputs


class Probe(NamedTuple):
    """This rank's share of the samples.

    Attributes:
        batches: as the loader gives them, or on the device where the datamodule made them; can be gone through again.
        whole: whether they are the whole of a part, gone through anew each time.
    """

    batches: Iterable[Any]
    whole: bool

    def on_device(self, trainer: Trainer) -> Iterable[Any]:
        """Move the batches to the device, by the module's and the datamodule's own hooks.

        Args:
            trainer: with module and strategy.

        Returns:
            Batches; of a whole part one at a time, so that memory stays bounded.
        """
        moved = _Moved(self.batches, trainer)
        return moved if self.whole else list(moved)


class _Moved:
    def __init__(self, batches: Iterable[Any], trainer: Trainer) -> None:
        self.batches, self.trainer = batches, trainer

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield moved(batch, self.trainer)


def moved(batch: Any, trainer: Trainer) -> Any:
    """Take a batch the way that Lightning's training loop does.

    Args:
        batch: on the host.
        trainer: with module and strategy.

    Returns:
        The batch on the device.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def draw(trainer: Trainer, which: Which | None, micro_batch_size: int | None, seed: int) -> Probe:
    """Choose the probe.

    A datamodule may have a say: its ``probe_batches(which, rank, ranks)`` gives this rank's batches. Else the samples are drawn
    from the training loader's data set without replacement, and put together by its own ``collate_fn``, as one batch; ``train``
    and ``val`` are all of a part.

    Args:
        trainer: in training, with its loaders.
        which: a number of samples over all ranks, ``train`` or ``val``; None is the datamodule's choice, or 256, a guess.
        micro_batch_size: samples in a batch; None is all of a probe; of a whole part as many as the loader takes, more if small.
        seed: of the choice.

    Returns:
        This rank's share.

    Raises:
        UsageError: the loader can be gone through only once.
    """
    rank, ranks = trainer.global_rank, trainer.world_size
    own = getattr(getattr(trainer, "datamodule", None), "probe_batches", None)
    if own is not None:
        batches = list(own(which, rank, ranks))
        if micro_batch_size is not None:
            batches = [piece for batch in batches for _, piece in micro_batches(batch, micro_batch_size)]
        return Probe(batches, whole=False)
    loaders, mode = _loaders(trainer, "val" if which == "val" else "train")
    samples = None if isinstance(which, str) else SAMPLES if which is None else which
    parts = tree_map(lambda loader: _share(loader, samples, micro_batch_size, seed, rank, ranks), loaders)
    combined = _Again(parts, mode)
    return Probe(combined, whole=True) if samples is None else Probe(list(combined), whole=False)


def _loaders(trainer: Trainer, part: str) -> tuple[Any, str]:
    if part == "train":
        combined = trainer.fit_loop._combined_loader
    else:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        combined = trainer.fit_loop.epoch_loop.val_loop._combined_loader
    if combined is None or not combined.flattened:
        raise UsageError(f"the probe is to be drawn from the {part} data, and there is no {part} dataloader.")
    return combined.iterables, combined._mode


class _Again:
    """Loaders combined as the training combines them, from the start each time."""

    def __init__(self, loaders: Any, mode: str) -> None:
        self.loaders, self.mode = loaders, mode

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.loaders, Iterable) and not isinstance(self.loaders, dict | list | tuple):
            yield from self.loaders
            return
        for batch, _, _ in CombinedLoader(self.loaders, self.mode):  # type: ignore[arg-type]  # its own mode
            yield batch


def _share(loader: Any, samples: int | None, size: int | None, seed: int, rank: int, ranks: int) -> Iterable[Any]:
    data: Any = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return _first(loader, samples)
    count = len(data) if samples is None else min(samples, len(data))
    chosen = torch.arange(count)
    if samples is not None:
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    mine = chosen[rank::ranks].tolist()
    if loader.batch_size is None and loader.batch_sampler is None:  # its items are batches already
        return DataLoader(Subset(data, mine), batch_size=None, collate_fn=loader.collate_fn)
    batch_size = size or (_whole_part(loader, data) if samples is None else max(len(mine), 1))
    return DataLoader(Subset(data, mine), batch_size=batch_size, collate_fn=loader.collate_fn)


def _whole_part(loader: DataLoader[Any], data: Any) -> int:
    numbers = sum(leaf.numel() for leaf in tree_leaves(data[0]) if isinstance(leaf, Tensor))
    return max(loader.batch_size or 1, NUMBERS // max(numbers, 1))


class _Batches:
    """A list of batches, which CombinedLoader would take for a list of loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _first(loader: Any, samples: int | None) -> Iterable[Any]:
    source = getattr(loader, "dataset", loader)
    if iter(source) is source:
        raise UsageError(
            f"the probe is to be drawn from a {type(source).__name__}, which can be gone through only once.\n"
            "write:    probe: batch, or a data set with __len__ and __getitem__, or an __iter__ that starts again"
        )
    if samples is None:
        return loader  # type: ignore[no-any-return]
    batches, found = [], 0
    for batch in loader:
        batches.append(batch)
        found += max((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), default=1)
        if found >= samples:
            break
    return _Batches(batches)


def digest(batches: Iterable[Any]) -> str:
    """Name samples by their content.

    Args:
        batches: any structures of tensors.

    Returns:
        The first 32 hexadecimal digits of a SHA-256 over each tensor's dtype, shape and bytes.
    """
    found = hashlib.sha256()
    for batch in batches:
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor):
                found.update(f"{leaf.dtype} {list(leaf.shape)}".encode())
                found.update(leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            else:
                found.update(repr(leaf).encode())
    return found.hexdigest()[:32]
