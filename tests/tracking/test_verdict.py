import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gradgrad.tracking.verdict import verdict


def lightnings_interrupt():
    """Lightning turns Ctrl-C into SystemExit(1)."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904
    except SystemExit as stop:
        return stop


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (None, ("FINISHED", 0, "")),
        (SystemExit(0), ("FINISHED", 0, "")),
        (SystemExit(), ("FINISHED", 0, "")),
        (KeyboardInterrupt(), ("KILLED", 130, "SIGINT")),
        (lightnings_interrupt(), ("KILLED", 130, "SIGINT")),
        (SIGTERMException(), ("KILLED", 143, "SIGTERM")),
        (SystemExit(143), ("KILLED", 143, "SIGTERM")),
        (SystemExit(3), ("FAILED", 3, "SystemExit")),
        (SystemExit("a reason"), ("FAILED", 1, "SystemExit")),
        (RuntimeError("boom"), ("FAILED", 1, "RuntimeError")),
    ],
)
def test_verdict(exception, expected):
    assert verdict(exception) == expected
