"""Weights in a file that holds numbers and no code (safetensors)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gradgrad.errors import UsageError, some

KEPT = "checkpoint"  # what the module itself put into its checkpoint, beside its state


def write_weights(state: Mapping[str, Any], kept: Mapping[str, Any], path: Path) -> None:
    """Write a module's state.

    Args:
        state: by name, as ``state_dict`` gives it.
        kept: plain values that the module's ``on_load_checkpoint`` will ask for.
        path: the file.

    Raises:
        UsageError: something is neither a tensor nor plain.
    """
    from safetensors.torch import save_file

    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise UsageError(f"its state has {some(odd)}, which is no tensor and would need a pickle")
    try:
        metadata = {KEPT: json.dumps(dict(kept))}
    except (TypeError, ValueError) as error:
        raise UsageError(f"its checkpoint has {some(kept)}, of which something is not plain and would need a pickle") from error
    storages: set[int] = set()
    tensors = {}
    for name, value in state.items():
        tensor = value.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        # Of parameters that share a tensor each name gets its own copy in the file; the module ties them again.
        tensors[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    save_file(tensors, path, metadata)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_weights` wrote; nothing in the file is ever executed.

    Args:
        path: the file.

    Returns:
        The state, on the CPU, and what the module put into its checkpoint.

    Raises:
        UsageError: it is another kind of file, for example a pickle, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            kept = json.loads((file.metadata() or {}).get(KEPT, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, kept  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(
            f"{path.name} cannot be read as weights: {error}\n"
            "expected: a safetensors file, which holds numbers and no code; nothing of this one was executed"
        ) from error
