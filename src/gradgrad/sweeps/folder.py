"""Where a sweep keeps what it knows: ``mlruns/sweeps/<name>/``."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gradgrad.errors import UsageError, nearest, some
from gradgrad.tracking.process import HOST, PID, this_process
from gradgrad.tracking.store import FOLDER
from gradgrad.written_whole import write_whole

STOP = "stop"  # a file: `gradgrad sweep stop` asks the sweep to finish what runs, or with the word `now` to stop it


def home() -> Path:
    """Name the folder of all sweeps.

    Returns:
        It, under the current folder.
    """
    return Path.cwd() / FOLDER / "sweeps"


class SweepFolder:
    """The files of one sweep.

    Args:
        name: of the sweep.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = home() / name

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from running the same sweep.

        Yields:
            Nothing.

        Raises:
            UsageError: one does, or there is no writing here.
        """
        try:
            (self.path / "trials").mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)  # orders hold what the command line holds, secrets too
        except OSError as error:
            place = self.path.relative_to(Path.cwd())
            raise UsageError(
                f"{place} cannot be written: {error.strerror}.\nwrite:    the command in a folder of yours"
            ) from error
        lock = FileLock(self.path / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            by = json.loads((self.path / "driver.json").read_text()) if (self.path / "driver.json").exists() else {}
            raise UsageError(
                f"sweep {self.name} is being run by process {by.get(PID, 'unknown')} on {by.get(HOST, 'this machine')}.\n"
                f"write:    gradgrad sweep status {self.name}, gradgrad sweep stop {self.name}, or --new for another study"
            ) from None
        try:
            write_whole(self.path / "driver.json", json.dumps(this_process()))
            (self.path / STOP).unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    @property
    def is_held(self) -> bool:
        """Whether a process runs it."""
        lock = FileLock(self.path / "driver.lock")
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def trial(self, number: int) -> Path:
        """Name the folder of a trial.

        Args:
            number: of the trial.

        Returns:
            The folder, made if need be.
        """
        folder = self.path / "trials" / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def stop_asked(self) -> str:
        """What `gradgrad sweep stop` has asked for: ``finish``, ``now`` or nothing."""
        file = self.path / STOP
        return file.read_text() if file.exists() else ""


def names() -> list[str]:
    """List the sweeps that there are.

    Returns:
        Their names, sorted.
    """
    return sorted(path.parent.name for path in home().glob("*/sweep.json"))


def existing(name: str) -> SweepFolder:
    """Find a sweep.

    Args:
        name: its name, or its file.

    Returns:
        Its folder; of several studies with that name the newest.

    Raises:
        UsageError: there is none.
    """
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    found = [stem] if "~" in stem and stem in names() else generations(stem)
    if not found:
        near, known = nearest(stem, names()), some(names())
        expected = f"one of {known}" if known else "one that was run in this folder"
        raise UsageError(f"there is no sweep {stem!r} here.\nexpected: {expected}" + (f"\nwrite:    {near}" if near else ""))
    return SweepFolder(found[-1])


def generations(stem: str) -> list[str]:
    """List the studies of one sweep file.

    Args:
        stem: the file's.

    Returns:
        ``name``, ``name~2``, ``name~3``, ..., those that there are.
    """
    numbered = [(int(found[1] or 1), name) for name in names() if (found := re.fullmatch(rf"{re.escape(stem)}(?:~(\d+))?", name))]
    return [name for _, name in sorted(numbered)]
