"""Lightning's checkpoint files, read without running any code that they may hold."""

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
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=mmap)
    except Exception as error:  # torch's errors for files that are none of its own have no common class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{checkpoint} cannot be read as a checkpoint: {reason}\nwrite: another --ckpt_path") from error
    return saved


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
