"""Artifact links of a store that was moved to another folder."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from gradgrad.tracking.store import local_folder

# Where MLflow's tables, and our tags, hold the place of a file.
LINKS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("tags", "value"),
)


class Move(NamedTuple):
    """A folder that is elsewhere now.

    Attributes:
        old: where the store says that artifacts are.
        new: where they are.
    """

    old: Path
    new: Path


def moves(database: Path) -> Iterator[Move]:
    """Find folders of experiments that lie beside the store's file while it names others: it was moved, or copied.

    Args:
        database: the store's file.

    Yields:
        The folder ``mlruns``, once for each old place.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        places = [place for (place,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments") if place]
    seen: set[Path] = set()
    for place in places:
        folder = local_folder(place)
        if folder is None or folder.parent.name != "artifacts" or folder.is_relative_to(database.parent):
            continue
        old = folder.parent.parent
        if old not in seen and (database.parent / "artifacts" / folder.name).is_dir():
            seen.add(old)
            yield Move(old, database.parent)


def relocate(database: Path) -> list[str]:
    """Write the new places into the store, after a copy of it.

    Args:
        database: the store's file.

    Returns:
        What was done, a line for each old place; empty where all links are right.
    """
    found = list(moves(database))
    if not found:
        return []
    copy = database.with_name(f"{database.name}.before-relocate-{int(time.time())}")
    lines = []
    with FileLock(database.with_suffix(".lock")), closing(sqlite3.connect(database, timeout=30)) as connection:
        with closing(sqlite3.connect(copy)) as backup:
            connection.backup(backup)
        for old, new in found:
            with connection:
                count = sum(_replace(connection, old, new, table, column) for table, column in LINKS)
            lines.append(f"{count} links from {old} to {new}; the store as it was: {copy.name}")
    return lines


def _replace(connection: sqlite3.Connection, old: Path, new: Path, table: str, column: str) -> int:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    if column not in columns:  # another version of MLflow
        return 0
    count = 0
    for before, after in ((f"{old.as_uri()}/", f"{new.as_uri()}/"), (f"{old}/", f"{new}/")):
        statement = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
        count += connection.execute(statement, (after, len(before) + 1, len(before), before)).rowcount
    return count
