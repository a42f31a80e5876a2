"""What a training loader of tasks yields: numbers of blocks, for the tasks themselves are made on the device."""

from collections.abc import Iterator
from typing import Any


class Blocks:
    """The numbers 0 to ``count - 1``, as a loader that Lightning may resume in mid-epoch.

    A plain range would do, but for Lightning's warning that a run resumed in mid-epoch sees other data than before. Here it
    does not: which tasks come next is read from the trainer's own counters, so there is no state to keep.

    Args:
        count: of blocks in an epoch.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def state_dict(self) -> dict[str, Any]:
        """Keep nothing.

        Returns:
            An empty dictionary.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore nothing.

        Args:
            state_dict: unused.
        """
