"""Files that wait until they are artifacts, and those that are."""

import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from gradgrad.tracking.spool import Spool

log = logging.getLogger(__name__)


def keep(spool: Spool, name: str, write: Callable[[Path], object]) -> Path | None:
    """Write a file that is the spool's until it is delivered; on another disk where that one is full.

    Args:
        spool: of the run.
        name: of the artifact.
        write: puts its content into the path that it is given.

    Returns:
        The file, in a folder of its own; None where there is room nowhere, which is said.
    """
    for place in (spool.folder, Path(tempfile.gettempdir())):
        room = place / uuid.uuid4().hex
        try:
            room.mkdir(parents=True)
            write(room / name)
        except OSError as error:
            reason = error
            shutil.rmtree(room, ignore_errors=True)
        else:
            return room / name
    log.warning("%s of run %s can be written nowhere and is not recorded: %s", name, spool.run_id, reason.strerror or reason)
    return None


def inside(folder: Path | None, path: str) -> str | None:
    """Name a file among a run's artifacts.

    Args:
        folder: of the artifacts; None where they are on another machine.
        path: of the file.

    Returns:
        Its name under the folder; None where it is not there.
    """
    return Path(path).relative_to(folder).as_posix() if folder and Path(path).is_relative_to(folder) else None
