"""A training that is interrupted anywhere and resumed is the uninterrupted one, bit for bit: weights and every logged value."""

import os
import signal
import time

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gradgrad.callbacks.last_checkpoint import LastCheckpoint
from gradgrad.callbacks.resumable import Resumable
from strangers import Memory


class Noisy(TensorDataset):
    """Augmentation draws from the same stream as dropout."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(3), y


class Endless(IterableDataset):
    """Ten batches without a length."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(3)
        for _ in range(40):
            x = torch.randn(3, generator=generator)
            yield x, x.sum()[None]


class Unlucky(LightningModule):
    """Dropout, batch normalization, sums over the epoch; fails in the step that it is told."""

    def __init__(self, fails_at, patience=0):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.fails_at, self.patience = fails_at, patience

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.fails_at:
            raise RuntimeError("on purpose")
        loss = (self.net(batch[0]) - batch[1]).pow(2).mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/least", loss, on_step=False, on_epoch=True, reduce_fx="min")
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (self.net(batch[0]) - batch[1]).pow(2).mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=self.patience)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}


def train(folder, fails_at=None, resume=False, data=None, workers=0, epochs=4, stop=None, seconds=0, **settings):
    seed_everything(1)
    x = torch.randn(40, 3)
    table = Noisy(x, x.sum(1, keepdim=True)) if data is None else data
    saving = LastCheckpoint(every_seconds=seconds, share=1)
    saving.dirpath = str(folder)
    module, shuffle = Unlucky(fails_at), data is None
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=Memory(),
        max_epochs=epochs,
        log_every_n_steps=1,
        callbacks=[saving, EarlyStopping("val/loss", patience=50), *([stop] if stop else [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.callbacks.append(Resumable())
    loaders = DataLoader(table, 4, shuffle=shuffle, num_workers=workers), DataLoader(TensorDataset(x, x.sum(1, True)), 8)
    checkpoint = folder / "last.ckpt" if resume else None
    if fails_at is None and stop is None:
        trainer.fit(module, *loaders, ckpt_path=checkpoint)
    else:
        with pytest.raises((RuntimeError, SIGTERMException)):
            trainer.fit(module, *loaders, ckpt_path=checkpoint)
    return module, trainer


class Stop(Callback):
    """Fails, or asks Lightning to end, between two steps."""

    def __init__(self, place, terminate):
        self.place, self.terminate = place, terminate

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            if not self.terminate:
                raise RuntimeError("on purpose")
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)  # of faster steps not all random states are kept


def curve(*trainers):
    return {(key, step): value for t in trainers for step, row in t.logger.rows for key, value in row.items()}


CASES = {
    "plain": {},
    "validated within the epoch": {"val_check_interval": 3},
    "accumulated": {"accumulate_grad_batches": 3},
    "of no length": {"data": Endless()},
    "short epochs": {"limit_train_batches": 1},
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("name", CASES)
def test_resumed_bit_for_bit(tmp_path, name):
    settings = CASES[name]
    module, whole = train(tmp_path / "whole", **settings)
    places = [(1, 0), (2, 0)] if name == "short epochs" else [(0, 5), (0, 9), (1, 0), (1, 3), (1, 4), (2, 7)]
    for n, place in enumerate(places):
        _, part = train(tmp_path / f"{n}", place, **settings)
        resumed, rest = train(tmp_path / f"{n}", resume=True, **settings)
        assert rest.global_step == whole.global_step
        for key, value in module.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), (place, key)
        both, alone = curve(part, rest), curve(whole)
        assert both.keys() == alone.keys()
        assert {point: both[point] for point in alone if both[point] != alone[point]} == {}, place
        of_first, of_second = set(curve(part)), set(curve(rest))
        assert of_first | of_second == set(alone)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("place", [(0, 5), (1, 3)])
def test_nothing_is_lost_between_two_steps(tmp_path, place, terminate):
    module, whole = train(tmp_path / "whole")
    # by time it would never be saved
    _, part = train(tmp_path / "part", stop=Stop(place, terminate), seconds=1e9)
    step = 10 * place[0] + place[1] + terminate
    assert torch.load(tmp_path / "part" / "last.ckpt", weights_only=True)["global_step"] == step
    resumed, rest = train(tmp_path / "part", resume=True)
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in module.state_dict().items())
    assert curve(part, rest) == curve(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_workers_draw_the_same_augmentation(tmp_path):
    module, _ = train(tmp_path / "whole", workers=1, epochs=2)
    train(tmp_path / "part", (1, 5), workers=1, epochs=2)
    resumed, _ = train(tmp_path / "part", resume=True, workers=1, epochs=2)
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
def test_prolonged_is_what_a_longer_training_is(tmp_path):
    module, _ = train(tmp_path / "whole", epochs=4)
    train(tmp_path / "short", epochs=2)
    resumed, _ = train(tmp_path / "short", resume=True, epochs=4)
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
def test_an_older_one_stays_and_no_code_is_in_it(tmp_path):
    _, trainer = train(tmp_path, epochs=1)
    last, previous = (torch.load(tmp_path / name, weights_only=True) for name in ("last.ckpt", "previous.ckpt"))
    assert last["global_step"] == 10
    assert 0 < previous["global_step"] < 10
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "last.ckpt")


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
def test_killed_in_its_first_seconds_it_begins_with_the_same_random_numbers(tmp_path, monkeypatch):
    module, whole = train(tmp_path / "whole", seconds=3600)
    monkeypatch.setattr(LastCheckpoint, "on_exception", lambda *_: None)  # as kill -9
    for n, place in enumerate([(0, 0), (0, 5), (2, 7)]):
        train(tmp_path / f"{n}", place, seconds=3600)
        resumed, rest = train(tmp_path / f"{n}", resume=True, seconds=3600)
        assert rest.global_step == whole.global_step
        assert curve(rest) == curve(whole)
        for key, value in module.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value)
