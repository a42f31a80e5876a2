"""Where runs are kept: one SQLite file under ``mlruns/``, unless ``MLFLOW_TRACKING_URI`` says otherwise."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psutil
from filelock import FileLock

from gradgrad.errors import UsageError
from gradgrad.tracking.secrets import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "mlruns"
EXPERIMENT_KIND = "mlflow.experimentKind"  # lets the UI open on training runs instead of traces of language models
# SQLite's write-ahead log needs shared memory, which file systems over a network do not give (sqlite.org/wal.html).
NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "afs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "gluster",
    "9p",
    "fuse",
    "webdav",
    "davfs",
)


def tracking_uri() -> str:
    """Read the address now, not at import: the environment may have changed since.

    Returns:
        ``MLFLOW_TRACKING_URI``, else the SQLite file ``mlruns/mlflow.db`` under the current folder, as an absolute address.

    Raises:
        UsageError: a file store, which MLflow refuses since 3.13, or a folder that no address can name.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        if "?" in str(Path.cwd()):
            raise UsageError(
                f"the current folder is {Path.cwd()}; a database address ends at a question mark.\n"
                "write: MLFLOW_TRACKING_URI=sqlite:///<another folder>/mlflow.db, or go to another folder"
            )
        return f"sqlite:///{Path.cwd() / FOLDER / 'mlflow.db'}"
    if (scheme := urlsplit(uri).scheme) in ("", "file") and not uri.startswith("databricks"):
        folder = url2pathname(urlsplit(uri).path) if scheme else uri
        raise UsageError(
            f"MLFLOW_TRACKING_URI is {redact(uri)}, a folder; MLflow refuses those since 3.13.\n"
            f"write: MLFLOW_TRACKING_URI=sqlite:///{folder.rstrip('/')}/mlflow.db, or unset it"
        )
    return uri


def database_file(uri: str) -> Path | None:
    """Find the file behind a SQLite address.

    Args:
        uri: a tracking address.

    Returns:
        The file's absolute path, or None for a server or another database.
    """
    if urlsplit(uri).scheme.partition("+")[0] != "sqlite":
        return None
    from sqlalchemy.engine import make_url

    return Path(make_url(uri).database or "").absolute()


def open_store(uri: str) -> "MlflowClient":
    """Connect; make the SQLite store first where there is none.

    MLflow creates its tables without a lock, and two processes that do so at once ruin the file for good; hence the lock.

    Args:
        uri: a tracking address.

    Returns:
        A client that has talked to the store once.

    Raises:
        UsageError: the store cannot be opened.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # Whatever fails is said in a line and tried again; MLflow would print a traceback of each time.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    database = database_file(uri)
    try:
        if database is None:
            with few_retries():
                client = MlflowClient(uri)
                client.search_experiments(max_results=1)
            return client
        database.parent.mkdir(parents=True, exist_ok=True)
        if database.parent.name == FOLDER and not (ignore := database.parent / ".gitignore").exists():
            ignore.write_text("*\n")  # else the runs themselves make a user's repository dirty
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # takes seconds, for which others need not wait

        with FileLock(database.with_suffix(".lock")):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
            if on_local_disk(database):
                with closing(sqlite3.connect(database)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")  # persists in the file: readers no longer block the writer
        return client
    except (MlflowException, SQLAlchemyError, OSError, ImportError, sqlite3.Error) as error:
        reason = _innermost(error)
        if "malformed" in reason or "not a database" in reason:
            raise UsageError(
                f"{redact(uri)} is damaged, or no SQLite file: {redact(reason)}\nwrite:    gradgrad doctor, which says more"
            ) from error
        raise UsageError(
            f"the tracking store {redact(uri)} cannot be opened: {redact(reason)}\n"
            "expected: a folder that can be written, or a server that answers\n"
            "write:    MLFLOW_TRACKING_URI=<address>, or unset it for mlruns/ under the current folder"
        ) from error


def existing_store(uri: str, asked: str) -> "MlflowClient":
    """Connect to a store that something is to be found in.

    Args:
        uri: a tracking address.
        asked: what for, as the user wrote it.

    Returns:
        A client.

    Raises:
        UsageError: there is none yet, or it cannot be opened.
    """
    database = database_file(uri)
    if database is not None and not database.exists():
        raise UsageError(f"{asked}: there is no run yet ({database} does not exist).\nwrite: gradgrad fit first")
    return open_store(uri)


def _innermost(error: BaseException) -> str:
    """What lies behind an error: MLflow puts a refused connection into half a page of words."""
    refused = re.search(r"\[Errno \d+\] ([^'\")]+)", str(error))
    return refused[1].rstrip(": ") if refused else str(error).splitlines()[0]


@contextmanager
def few_retries() -> Iterator[None]:
    """Learn within seconds that no server answers; MLflow itself would try for minutes.

    Yields:
        Nothing.
    """
    few = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {key: os.environ.get(key) for key in few}
    os.environ.update({key: value for key, value in few.items() if before[key] is None})
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]


def find_experiment(client: "MlflowClient", name: str, uri: str) -> str:
    """Give an experiment's id; create it where there is none, also when several processes do so at once.

    Args:
        client: of the store at ``uri``.
        name: of the experiment.
        uri: a tracking address.

    Returns:
        The id.

    Raises:
        UsageError: the experiment was deleted.
        MlflowException: the store refuses for another reason.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        database = database_file(uri)
        # Absolute, because MLflow would resolve it against the folder of whoever reads it.
        folder = re.sub(r"[^\w. -]", "_", name).lstrip(". ") or "experiment"  # a name may hold slashes and dots
        location = (database.parent / "artifacts" / folder).as_uri() if database else None
        try:
            return client.create_experiment(name, artifact_location=location, tags={EXPERIMENT_KIND: "custom_model_development"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise UsageError(
            f"experiment {name!r} was deleted; its name is taken until it is gone for good.\n"
            f"write: `mlflow experiments restore -x {experiment.experiment_id}`, or another name by"
            " --trainer.logger.experiment_name"
        )
    return experiment.experiment_id


def local_folder(artifact_uri: str) -> Path | None:
    """Find the folder behind an artifact address.

    Args:
        artifact_uri: of a run.

    Returns:
        The folder, or None where the artifacts are not on this machine.
    """
    parts = urlsplit(artifact_uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def on_local_disk(path: Path) -> bool:
    """Tell whether a file lies on a disk of this machine.

    Args:
        path: an existing file.

    Returns:
        False for the network file systems that are known by name.
    """
    mounts = [m for m in psutil.disk_partitions(all=True) if path.is_relative_to(m.mountpoint)]
    kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""
    return not kind.lower().startswith(NETWORK_FILE_SYSTEMS)
