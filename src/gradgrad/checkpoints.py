"""Lightning's checkpoint files, read without running any code that they may hold."""

import errno
import re
import warnings
from pickle import UnpicklingError
from typing import Any

import torch

from gradgrad.errors import UsageError


def read_checkpoint(checkpoint: str, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        checkpoint: a file.
        mmap: read tensors only when they are used; the file must stay as it is meanwhile.

    Returns:
        What Lightning wrote, on the CPU.

    Raises:
        UsageError: the file is damaged, or no checkpoint, or holds code.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # torch never reads more than plain data
            saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=mmap)
    except Exception as error:  # torch's errors for files that are none of its own have no common class
        raise UsageError(unreadable(checkpoint, error)) from error
    return saved


def unreadable(checkpoint: str, error: Exception) -> str:
    """Say why a checkpoint was not read; torch's own advice would be to execute what is in it.

    Args:
        checkpoint: a file or an address.
        error: torch's.

    Returns:
        The sentence.
    """
    if code := code_in(error):
        return (
            f"{checkpoint} is refused: beside numbers it holds code ({code}), and nothing of it was executed.\n"
            "expected: a checkpoint of tensors and plain values, as `gradgrad fit` writes it\n"
            "write:    another --ckpt_path"
        )
    return f"{checkpoint} cannot be read as a checkpoint: {damage(error)}\nwrite: another --ckpt_path"


def unloadable(checkpoint: str, error: Exception) -> str:
    """Say why Lightning did not take a checkpoint.

    Args:
        checkpoint: a file or an address.
        error: Lightning's or torch's.

    Returns:
        The sentence; empty where the error is about something else.
    """
    if isinstance(error, UnpicklingError):
        return unreadable(checkpoint, error)
    lines = [line.strip() for line in str(error).splitlines()]
    if not lines or not lines[0].startswith(("Error(s) in loading state_dict", "loaded state dict ")):
        return ""
    detail = lines[1] if len(lines) > 1 else lines[0]
    return (
        f"{checkpoint.rpartition('/')[2]} comes from another network or optimizer: {detail[:200]}\n"
        "write: the model's settings that made the checkpoint, or another checkpoint"
    )


def code_in(error: Exception) -> str:
    """Name the code that torch found in a file.

    Args:
        error: torch's.

    Returns:
        Name of a class or function; empty where there was none.
    """
    found = re.search(r"(?:GLOBAL|Trying to instantiate a class|load unsupported GLOBAL) ([\w.]+)", str(error))
    return found[1] if found else ""


def damage(error: Exception) -> str:
    """Say in a few words why a file was not read.

    Args:
        error: torch's.

    Returns:
        The system's reason; else that it is no checkpoint: torch's own words tell of its own parts.
    """
    of_the_system = isinstance(error, OSError) and error.errno != errno.EINVAL and error.strerror  # EINVAL: a file too short
    return str(of_the_system or "it is no checkpoint, or half of one")


def model_config(checkpoint: str) -> dict[str, Any]:
    """Give the config of the module that a checkpoint was made from.

    Args:
        checkpoint: a file.

    Returns:
        ``{"model": {"class_path": ..., "init_args": ...}}``, or nothing where the module was not made from YAML.
    """
    saved = read_checkpoint(checkpoint).get("hyper_parameters", {})
    init_args = {key: value for key, value in saved.items() if key not in ("_class_path", "_instantiator")}
    return {"model": {"class_path": saved["_class_path"], "init_args": init_args}} if "_class_path" in saved else {}
