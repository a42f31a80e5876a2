"""All that touches MLflow. Import the logger from here; the rest is for the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradgrad.tracking.logger import MLflowLogger

__all__ = ["MLflowLogger"]


def __getattr__(name: str) -> Any:
    """Import the logger when it is asked for: the verbs that train nothing need no Lightning, which takes seconds."""
    if name != "MLflowLogger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gradgrad.tracking.logger import MLflowLogger

    return MLflowLogger
