"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a file so that nobody ever sees a part of it.

    Args:
        file: which may be there.
        text: its content.
    """
    partial = file.with_name(f"{file.name}.part")
    with partial.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
