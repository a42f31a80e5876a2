"""How checkpoints are written: whole, or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol


class WholeCheckpointIO(TorchCheckpointIO):
    """Write beside the file that is to be replaced, and put the new one into its place when it is on the disk.

    Lightning's own goes through a temporary file elsewhere, which is copied where that is another disk; a process that is killed
    in the middle of the copy leaves half a checkpoint in place of the last one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save.

        Args:
            checkpoint: Lightning's dictionary.
            path: of the file.
            storage_options: none.
        """
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.unfinished")
        try:
            with unfinished.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
