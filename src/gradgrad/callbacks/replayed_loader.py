"""A training loader that can be put back into the middle of an epoch."""

import time
from collections import deque
from typing import Any

import torch
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset

from gradgrad.callbacks.random_states import random_states, restore_random_states

SLOW = 0.01  # seconds between batches beyond which reading all random states, a tenth of a millisecond, costs less than 1 %


class ReplayedLoader(CombinedLoader):
    """Lightning's combination of training loaders, which remembers how its epoch began.

    The order of an epoch follows from the random states at its beginning; so a loader without a state of its own is put back by
    drawing that order again and leaving out what has been seen. Of a ``DataLoader`` without workers only indices are
    drawn again; workers, and iterable data, fetch the batches too. A loader with ``state_dict`` and ``load_state_dict``
    (torchdata's, for example) is asked for its state instead.

    Args:
        iterables: one loader or a collection of them.
        mode: Lightning's.
        trainer: whose loop reads it.
    """

    def __init__(self, iterables: Any, mode: Any, trainer: Trainer) -> None:
        super().__init__(iterables, mode)
        self.trainer = trainer
        self.attentive = True  # whether the states before the next batch will be needed
        self.begin: dict[str, Any] | None = None
        self.before: tuple[int, dict[str, Any]] | None = None  # batches fetched and random states, before the last fetch
        self._calls = 0
        self._own: deque[tuple[int, list[Any]]] = deque(maxlen=2)
        self._back_to: dict[str, Any] | None = None
        self._fetched_at = 0.0

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device

    def position(self, at_batch_start: bool) -> dict[str, Any] | None:
        """Tell where the epoch stands.

        Args:
            at_batch_start: whether the last batch that was fetched has not been trained on.

        Returns:
            What :meth:`go_back` takes; None where the states before that batch were not read.
        """
        if (
            not at_batch_start
        ):  # random numbers may be drawn before the next batch is fetched: the states are the callback's concern
            return {"begin": self.begin, "calls": self._calls, "now": None}
        if self.before is None:
            return None
        calls, now = self.before
        return {"begin": self.begin, "calls": calls, "now": now}

    def go_back(self, position: dict[str, Any], batches: int) -> None:
        """Continue an epoch at the next ``iter``.

        Args:
            position: of :meth:`position`, perhaps of another process.
            batches: that were trained on.
        """
        self._back_to = {**position, "batches": batches}

    def __iter__(self) -> "ReplayedLoader":
        if self._calls:
            self._back_to = None  # an epoch of which nothing was left
        back, self._own = self._back_to, deque(maxlen=2)
        if back is not None and back["begin"] is not None:
            restore_random_states(back["begin"], self._device)
        self.begin, self.before, self._calls = random_states(self._device), None, 0
        super().__iter__()
        if back is not None:
            self._leave_out(back["batches"])
            self._calls = back["batches"]
        return self

    def __next__(self) -> Any:
        if self._back_to is not None and self._calls >= self._back_to["calls"]:
            if self._back_to["now"] is not None:
                restore_random_states(self._back_to["now"], self._device)
            self._back_to = None
        began = time.perf_counter()
        needed = self.attentive or began - self._fetched_at > SLOW
        self.before = (self._calls, random_states(self._device)) if needed else None
        self._fetched_at = began
        if any(isinstance(loader, _Stateful) for loader in self.flattened):
            self._own.append((self._calls, super()._state_dicts()))
        self._calls += 1
        return super().__next__()

    def _leave_out(self, batches: int) -> None:
        if any(isinstance(loader, _Stateful) for loader in self.flattened):
            return  # Lightning has given those their states
        assert self._iterator is not None
        loader = self.flattened[0] if len(self.flattened) == 1 else None
        plain = type(loader) is DataLoader and not loader.num_workers and not isinstance(loader.dataset, IterableDataset)
        for _ in range(batches):
            if plain:
                self._iterator.iterators[0]._next_index()  # type: ignore[attr-defined]
                self._iterator._idx += 1
            else:
                next(self._iterator)

    def _state_dicts(self) -> list[dict[str, Any]]:
        """Give the loaders' own states as they were when all that was fetched had been trained on."""
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        trained = progress.current.started
        return next((states for calls, states in self._own if calls == trained), None) or super()._state_dicts()


class ReplayedSource(_DataLoaderSource):
    """Where Lightning gets its training loader from; what comes from there can be replayed."""

    trainer: Trainer
    back_to: tuple[dict[str, Any], int] | None = None
    """Arguments of :meth:`ReplayedLoader.go_back`, for the next loader."""

    def dataloader(self) -> Any:
        """Ask for the loader.

        Returns:
            It, to be replayed unless it is a combination of a class of its own.
        """
        loader, mode = super().dataloader(), "max_size_cycle"
        if isinstance(loader, CombinedLoader):
            if type(loader) is not CombinedLoader:
                return loader
            loader, mode = loader.iterables, loader._mode
        replayed = ReplayedLoader(loader, mode, self.trainer)
        if self.back_to is not None:
            replayed.go_back(*self.back_to)
            self.back_to = None
        return replayed
