"""A run that goes on from a checkpoint goes on with the same numbers; two processes give those of one."""

import math
import os

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import distributed
from torch.utils.data import DataLoader

from gradgrad.callbacks import HessianSpectrum
from processes import two_ranks
from strangers import Memory, Stranger, data, loader


def train(folder, steps, checkpoint=None):
    torch.manual_seed(0)
    module, callback = Stranger(), HessianSpectrum(k=2, every_n_steps=2, density_every=4, on_error="raise")
    saving = ModelCheckpoint(folder, every_n_train_steps=4, filename="{step}", save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=Memory(),
        callbacks=[callback, saving],
        max_steps=steps,
        log_every_n_steps=1,
        max_epochs=-1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data(), batch_size=5), ckpt_path=checkpoint)
    return trainer, callback


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resumed_bit_for_bit(tmp_path):
    whole, kept = train(tmp_path / "whole", 10)
    train(tmp_path / "part", 4)
    (checkpoint,) = (tmp_path / "part").glob("*step=4.ckpt")
    resumed, going_on = train(tmp_path / "rest", 10, checkpoint)

    def numbers(trainer, name):
        return [(step, value) for step, value in trainer.logger.history(f"hessian/{name}") if step > 4]

    for name in ("lambda_1", "lambda_2", "residual", "hvps", "gradient_overlap"):
        assert numbers(whole, name) == numbers(resumed, name)
        assert len(numbers(whole, name)) == 3
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in callback.history.rows] for callback in (kept, going_on)]
    assert rows[0] == rows[1]  # the table and the figures of the resumed run have all of it
    assert torch.equal(kept.history.densities[0].nodes, going_on.history.densities[0].nodes)
    torch.load(checkpoint, weights_only=True)  # no code in it


SETTINGS = {"k": 2, "which": "BE", "probe": 19, "tol": 1e-6, "every_n_steps": 1, "trace_probes": 9, "on_error": "raise"}


def measured(devices, operator="hessian", **strategy):
    torch.manual_seed(0)
    module, callback = Stranger(lr=0.0).double(), HessianSpectrum(**SETTINGS, operator=operator)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        logger=Memory(),
        callbacks=[callback],
        max_steps=1,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **strategy,
    )
    trainer.fit(module, loader(dtype=torch.float64))
    return {**callback.history.rows[0], "samples": callback.spectrometer.samples}


class Unlucky(Stranger):
    """Moving a batch fails in one process, in a measurement: out of memory, say."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        if not self.training and self.global_rank == 1:
            raise ValueError("on purpose")
        return batch


def failed_in_one(rank):
    callback = HessianSpectrum(every_n_steps=1)
    settings = {"logger": Memory(), "max_steps": 2, "log_every_n_steps": 1, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", callbacks=[callback], enable_progress_bar=False, **settings)
    trainer.fit(Unlucky(), loader())
    return {"steps": trainer.global_step, "lambda": [row["lambda_max"] for row in callback.history.rows]}


def rank_measures(rank, port, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2")
    os.environ.update(RANK=str(rank), GROUP_RANK="0", LOCAL_WORLD_SIZE="2")
    for operator in ("hessian", "ggn"):
        found = measured(2, strategy="ddp", operator=operator)
        results.put((rank, operator, found))
    results.put((rank, "failed", failed_in_one(rank)))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_measure_what_one_does():
    alone = {operator: measured(1, operator=operator) for operator in ("hessian", "ggn")}
    for rank, operator, found in two_ranks(rank_measures, told=6, seconds=120):
        if operator == "failed":  # all go on
            assert found["steps"] == 2
            assert len(found["lambda"]) == 3
            assert all(math.isnan(value) for value in found["lambda"])
            continue
        assert found["samples"] == 19  # 10 and 9
        for name in ("lambda_1", "lambda_2", "lambda_min", "trace", "loss", "gradient_norm"):
            # lambda_min of a matrix without negative eigenvalues is rounding
            assert found[name] == pytest.approx(alone[operator][name], rel=1e-10, abs=1e-10), (rank, operator, name)
