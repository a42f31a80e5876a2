"""How a run ended, in MLflow's words and in the shell's."""

from typing import Literal, NamedTuple

from lightning.pytorch.utilities.exceptions import SIGTERMException

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Verdict(NamedTuple):
    """The end of a run.

    Attributes:
        status: MLflow's.
        exit_code: the shell's: 0, 1 failure, 130 interrupt, 143 terminated.
        reason: type of the exception or name of the signal; empty after a good end.
    """

    status: Status
    exit_code: int
    reason: str = ""


class Pruned(Exception):  # noqa: N818  # no error: what was asked for
    """A sweep has stopped the training because others do better."""


def verdict(exception: BaseException | None) -> Verdict:
    """Judge an exception.

    Args:
        exception: what ended the run; None after a good end. Lightning turns Ctrl-C into ``SystemExit(1)``, so the context of a
            ``SystemExit`` is looked at too.

    Returns:
        FINISHED, KILLED (a signal asked for it) or FAILED.
    """
    if exception is None:
        return Verdict("FINISHED", 0)
    if isinstance(exception, SystemExit) and isinstance(exception.__context__, KeyboardInterrupt):
        exception = exception.__context__
    if isinstance(exception, KeyboardInterrupt):
        return Verdict("KILLED", 130, "SIGINT")
    # Lightning's exception carries no code; our own handler's SystemExit carries 143.
    if isinstance(exception, SIGTERMException) or (isinstance(exception, SystemExit) and exception.code == 143):
        return Verdict("KILLED", 143, "SIGTERM")
    if isinstance(exception, SystemExit) and exception.code in (0, None):
        return Verdict("FINISHED", 0)
    if isinstance(exception, Pruned):
        return Verdict("KILLED", 0, "pruned")
    code = exception.code if isinstance(exception, SystemExit) and isinstance(exception.code, int) else 1
    return Verdict("FAILED", code, type(exception).__name__)
