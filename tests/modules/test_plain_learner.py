"""A plain learner against plain torch."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradgrad.batches import Batch
from gradgrad.datamodules import ChebyshevRegression, GaussianBlobs
from gradgrad.modules import HalfSquaredError, PlainLearner
from gradgrad.networks import MLP


def trainer(**settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": -1, **quiet, **settings})


def test_half_the_squared_error(float64):
    output, target = torch.randn(3, 4), torch.randn(3, 4)
    by_hand = sum(0.5 * (o - t) ** 2 for o, t in zip(output.flatten().tolist(), target.flatten().tolist(), strict=True)) / 3
    assert HalfSquaredError()(output, target).item() == pytest.approx(by_hand, rel=1e-14)


def test_it_descends_as_plain_torch_does():
    torch.manual_seed(0)
    network = MLP(1, 1, [5])
    plain = MLP(1, 1, [5])
    plain.load_state_dict(network.state_dict())
    data = ChebyshevRegression(steps_per_epoch=2)
    learner = PlainLearner(network, HalfSquaredError(), lambda params: torch.optim.SGD(params, lr=0.3))
    trainer(max_steps=5).fit(learner, datamodule=data)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        HalfSquaredError()(plain(data.batch.x), data.batch.y).backward()
        optimizer.step()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_classifier_logs_its_accuracy():
    torch.manual_seed(0)
    data = GaussianBlobs(classes=3)
    learner = PlainLearner(nn.Linear(30, 3), nn.CrossEntropyLoss(), lambda params: torch.optim.SGD(params, lr=0.05))
    run = trainer(max_steps=100)
    run.fit(learner, datamodule=data)
    (said,) = run.test(learner, datamodule=data, verbose=False)
    right = learner(data.batch.x).argmax(1) == data.batch.y
    assert said["test/accuracy"] == pytest.approx(right.float().mean().item())
    assert said["test/accuracy"] > 0.9
    assert said["test/loss"] == pytest.approx(learner.loss(data.batch).item(), rel=1e-6)


def test_a_regressor_has_no_accuracy():
    data = ChebyshevRegression()
    (said,) = trainer().validate(PlainLearner(MLP(1, 1), HalfSquaredError()), datamodule=data, verbose=False)
    assert set(said) == {"val/loss"}


def test_a_checkpoint_comes_back(tmp_path):
    data = ChebyshevRegression()
    learner = PlainLearner(MLP(1, 1), HalfSquaredError())
    run = trainer(max_steps=1)
    run.fit(learner, datamodule=data)
    run.save_checkpoint(tmp_path / "x.ckpt")
    loaded = PlainLearner.load_from_checkpoint(tmp_path / "x.ckpt", network=MLP(1, 1), loss=HalfSquaredError())
    assert torch.equal(loaded(data.batch.x), learner(data.batch.x))
    predicted = trainer().predict(learner, datamodule=data)
    assert torch.equal(predicted[0].prediction, learner(data.batch.x))


@pytest.mark.parametrize(("every", "logged"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6]), (0, [])])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_is_logged_where_the_trainer_wants_it(tmp_path, monkeypatch, every, logged, accumulate):
    logger, seen = CSVLogger(tmp_path), []
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step: seen.extend([step + 1] * ("train/loss" in metrics)))
    learner = PlainLearner(MLP(1, 1), HalfSquaredError())
    data = ChebyshevRegression(steps_per_epoch=7 * accumulate)
    trainer(max_steps=7, logger=logger, log_every_n_steps=every, accumulate_grad_batches=accumulate).fit(learner, datamodule=data)
    assert seen == logged


class Pairs(LightningDataModule):
    """A stranger's datamodule: pairs, not our batches."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(8, 2), torch.rand(8, 1)), batch_size=4)

    val_dataloader = train_dataloader


def test_pairs_serve_too():
    learner = PlainLearner(MLP(2, 1), nn.MSELoss())
    trainer(max_steps=3).fit(learner, datamodule=Pairs())
    assert learner.loss(Batch(torch.rand(2, 2), torch.rand(2, 1))).dim() == 0


@pytest.mark.parametrize("scheduler", [None, lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)])
def test_configure_optimizers(scheduler):
    configured = PlainLearner(MLP(1, 1), nn.MSELoss(), scheduler=scheduler).configure_optimizers()
    assert isinstance(configured, torch.optim.SGD) if scheduler is None else set(configured) == {"optimizer", "lr_scheduler"}
