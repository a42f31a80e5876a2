"""What a datamodule says of its data, so that a module can build its network for them."""

from typing import TypeVar

from lightning.pytorch import LightningModule

from gradgrad.errors import UsageError

Announced = TypeVar("Announced")


def announced(module: LightningModule, attribute: str, kind: type[Announced], lack: str, remedy: str) -> Announced:
    """Ask the trainer's datamodule.

    Args:
        module: attached to a trainer.
        attribute: of the datamodule.
        kind: what it must be, from ``gradgrad.batches``.
        lack: what a datamodule without it fails to do, for the message.
        remedy: what to write instead.

    Returns:
        The attribute's value.

    Raises:
        UsageError: the datamodule has no such attribute.
    """
    data = getattr(module.trainer, "datamodule", None)
    said = getattr(data, attribute, None)
    if not isinstance(said, kind):
        raise UsageError(
            f"{type(module).__name__} got data from {type(data).__name__}, which {lack}.\n"
            f"expected: a LightningDataModule with an attribute `{attribute}` (gradgrad.batches.{kind.__name__})\n"
            f"write:    {remedy}"
        )
    return said
