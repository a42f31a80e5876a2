"""Where a study is kept."""

import json
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from gradgrad.errors import UsageError
from gradgrad.sweeps.folder import SweepFolder
from gradgrad.tracking.secrets import redact


class _Lock(JournalFileOpenLock):
    """Optuna's own locks are files that a killed process leaves behind; this one ends with its process."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._lock = FileLock(file)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_storage(address: str | None, folder: Path, *, mend: bool = True) -> BaseStorage:
    """Open where a study is kept.

    Args:
        address: of a database; None means a journal in the folder.
        folder: of the sweep.
        mend: whether a journal may be mended, by the one process that writes it.

    Returns:
        Optuna's storage.

    Raises:
        UsageError: it cannot be reached.
    """
    if address is None:
        journal = folder / "journal.log"
        if mend:
            _mend(journal)
        return JournalStorage(JournalFileBackend(str(journal), _Lock(folder / "journal.lock")))
    try:
        return optuna.storages.get_storage(address)
    except Exception as error:  # of SQLAlchemy, of its driver, of a missing driver
        reason = redact(str(error).strip().splitlines()[0])
        raise UsageError(
            f"storage {redact(address)} cannot be reached: {reason}\n"
            "write:    another storage, or none for a file in mlruns/sweeps"
        ) from error


def _mend(journal: Path) -> None:
    """Drop a last line that a killed process, or a full disk, cut off: Optuna would refuse the whole file."""
    if journal.exists() and (content := journal.read_bytes()) and not content.endswith(b"\n"):
        journal.write_bytes(content[: content.rfind(b"\n") + 1])


def kept_study(folder: SweepFolder) -> optuna.Study:
    """Open the study of a sweep that was run, to look at it; whoever runs it is not disturbed.

    Args:
        folder: of the sweep.

    Returns:
        Optuna's study.
    """
    address = json.loads((folder.path / "sweep.json").read_text())["storage"]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.load_study(study_name=folder.name, storage=open_storage(address, folder.path, mend=False))
