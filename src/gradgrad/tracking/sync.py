"""`gradgrad sync`: deliver what runs left in their spools."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradgrad.tracking.delivery import deliver
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.spool import Spool, SpoolInUseError, spool_folder, spools
from gradgrad.tracking.store import open_store, tracking_uri
from gradgrad.tracking.verb import Parser

if TYPE_CHECKING:
    from mlflow import MlflowClient


def sync(arguments: Sequence[str]) -> int:
    """Deliver all spools under the current folder.

    Args:
        arguments: none but ``--help``.

    Returns:
        0 if everything is delivered, 1 if something is left.

    Raises:
        UsageError: the store cannot be opened.
    """
    expected = "gradgrad sync, from the folder where the runs were started"
    Parser(
        "gradgrad sync", expected, "Send what runs could not send to the tracking store, in order, each point once."
    ).parse_args(arguments)
    files = list(spools())
    if not files:
        print(f"nothing waits in {spool_folder()}")  # noqa: T201
        return 0
    client = open_store(tracking_uri())
    lines = [deliver_file(client, file) for file in files]
    print("\n".join(line for line, _ in lines))  # noqa: T201
    return 0 if all(done for _, done in lines) else 1


def deliver_file(client: "MlflowClient", file: Path) -> tuple[str, bool]:
    """Deliver one spool, unless a living process does.

    Args:
        client: of the store.
        file: the spool's.

    Returns:
        What to tell, and whether nothing is left for anyone to do.
    """
    try:
        spool = Spool(file)
    except SpoolInUseError:
        return f"run {file.name.partition('.')[0]}: its process lives, and delivers by itself", True
    waiting = len(spool)
    try:
        deliver(client, spool)
        reason = (
            f"MLflow refuses, and they stay in {file}\n"
            f"write: mlflow runs restore --run-id {spool.run_id} if the run was deleted, then gradgrad sync; or delete that file"
        )
    except Exception as error:  # of the store, whatever it is
        reason = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
    left = len(spool) + spool.refused
    sent = max(0, waiting - left)
    spool.close()
    line = f"run {spool.run_id}: {sent} entries delivered"
    return (f"{line}; {left} are left: {reason}" if left else line), not left


def deliver_run(client: "MlflowClient", run_id: str) -> None:
    """Deliver what dead processes left of a run.

    Args:
        client: of the store.
        run_id: MLflow's.
    """
    for file in spools():
        if file.name.partition(".")[0] == run_id:
            deliver_file(client, file)
