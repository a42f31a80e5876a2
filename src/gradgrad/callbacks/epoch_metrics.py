"""What has been logged of an unfinished epoch, which Lightning leaves out of checkpoints."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor
from torchmetrics import Metric

CPU = torch.device("cpu")
META = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)


def epoch_metrics(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Read the sums behind ``self.log(..., on_epoch=True)``, the metrics' own states, and what callbacks may monitor.

    Args:
        trainer: in training.
        module: anyone's.

    Returns:
        Plain values and tensors on the CPU.
    """
    sums = {
        key: {
            "meta": {name: getattr(result.meta, name) for name in META},
            "reduce": result.meta.reduce_fx.__name__,
            "sync": (result.meta.sync.should, result.meta.sync.rank_zero_only),
            "state": {name: _move(getattr(result, name), CPU) for name in result._defaults},
        }
        for key, result in trainer.fit_loop.epoch_loop._results.items()
        if result.is_tensor and result.meta.on_epoch and result.meta.sync.group is None
    }
    metrics = {
        name: {"updates": part._update_count, "state": {key: _move(getattr(part, key), CPU) for key in part._defaults}}
        for name, part in module.named_modules()
        if isinstance(part, Metric) and part._update_count
    }
    monitored = {key: _move(value, CPU) for key, value in trainer._logger_connector._callback_metrics.items()}
    return {"sums": sums, "metrics": metrics, "monitored": monitored}


def restore_epoch_metrics(saved: dict[str, Any], trainer: Trainer, module: LightningModule, *, mid_epoch: bool) -> None:
    """Go on summing.

    Args:
        saved: of :func:`epoch_metrics`.
        trainer: about to train.
        module: anyone's.
        mid_epoch: whether the epoch goes on; else only what callbacks may monitor is restored.
    """
    device = module.device
    connector = trainer._logger_connector
    connector._callback_metrics.update({key: _move(value, device) for key, value in saved["monitored"].items()})
    if not mid_epoch:
        return
    results = trainer.fit_loop.epoch_loop._results
    for key, entry in saved["sums"].items():
        meta = _Metadata(**entry["meta"], reduce_fx=getattr(torch, entry["reduce"]))
        should, rank_zero = entry["sync"]
        meta.sync = _Sync(_should=should, fn=trainer.strategy.reduce, rank_zero_only=rank_zero)
        results[key] = _ResultMetric(meta, is_tensor=True).to(device)
        for name, value in entry["state"].items():
            setattr(results[key], name, _move(value, device))
        results[key]._update_count = 1
    parts = dict(module.named_modules())
    for name, entry in saved["metrics"].items():
        part = parts.get(name)
        if isinstance(part, Metric) and set(entry["state"]) == set(part._defaults):
            part._update_count = entry["updates"]
            for key, value in entry["state"].items():
                setattr(part, key, _move(value, device))


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_move(item, device) for item in value]
    return value.detach().to(device) if isinstance(value, Tensor) else value
