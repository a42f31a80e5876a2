"""The regressor against numbers worked out beside it."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from gradgrad.batches import Batch, Statistics
from gradgrad.datamodules import TabularRegression
from gradgrad.errors import UsageError
from gradgrad.modules import GradientNormRegressor
from gradgrad.networks import MLP
from gradgrad.penalties import GradientNormPenalty


def network(features, outputs):
    return MLP(features, outputs, [8])


def trainer(**settings):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 2, **quiet, **settings})


def fitted(penalties=(), **settings):
    torch.manual_seed(0)
    module = GradientNormRegressor(network, penalties)
    trainer(**settings).fit(module, datamodule=TabularRegression("diabetes"))
    return module


class Recorder(GradientNormRegressor):
    """Keep what is logged."""

    def log(self, name, value, **kwargs):
        if name.startswith("train/"):
            self.__dict__.setdefault("seen", {}).setdefault(name, []).append(float(value))
        super().log(name, value, **kwargs)


class Plain(GradientNormRegressor):
    """The regressor without the penalty's code."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer):
        pass


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("penalties", [[], [GradientNormPenalty(0.0)], [GradientNormPenalty(3.0, warmup_steps=10**6)]])
def test_weight_zero_is_the_plain_regressor_bit_for_bit(penalties):
    limit = {"limit_train_batches": 1, "max_epochs": 1} if penalties and penalties[0].weight else {}
    torch.manual_seed(0)
    plain = Plain(network)
    trainer(**limit).fit(plain, datamodule=TabularRegression("diabetes"))
    assert torch.equal(weights(fitted(penalties, **limit)), weights(plain))


def test_a_penalty_changes_the_training():
    assert not torch.equal(weights(fitted([GradientNormPenalty(1.0)])), weights(fitted()))


def test_the_same_seed_gives_the_same_bits():
    assert torch.equal(weights(fitted([GradientNormPenalty(1.0)])), weights(fitted([GradientNormPenalty(1.0)])))


@pytest.mark.parametrize("penalties", [[], [GradientNormPenalty(0.5)]])
def test_what_a_step_logs_is_true(penalties):
    torch.manual_seed(0)
    module = Recorder(network, penalties)
    data = TabularRegression("diabetes")
    trainer(max_steps=1, limit_val_batches=0).fit(module, datamodule=data)
    start = GradientNormRegressor(network)
    torch.manual_seed(0)
    start.trainer = trainer()
    start.trainer.datamodule = data
    start.configure_model()
    # the batch is the sampler's secret; but one step from known weights with plain arithmetic must reproduce all three
    torch.manual_seed(0)
    probe = Recorder(network, penalties)
    seen = []
    probe.on_train_batch_start = lambda batch, _: seen.append(batch)
    trainer(max_steps=1, limit_val_batches=0).fit(probe, datamodule=TabularRegression("diabetes"))
    torch.manual_seed(0)
    fresh = MLP(10, 1, [8])
    x = (seen[0].x - data.statistics.x_mean) / data.statistics.x_std
    y = (seen[0].y - data.statistics.y_mean) / data.statistics.y_std
    loss = (fresh(x) - y).square().mean()
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(fresh.parameters()))]).norm()
    weight = penalties[0].weight if penalties else 0.0
    assert module.seen["train/loss"] == [pytest.approx(loss.item(), rel=1e-5)]
    assert module.seen["train/gradient_norm"] == [pytest.approx(norm.item(), rel=1e-5)]
    assert module.seen["train/penalty"] == [pytest.approx(weight * norm.item() ** 2, rel=1e-5)]


def test_metrics_are_in_the_target_unit():
    module = fitted()
    data = TabularRegression("diabetes")
    data.setup("validate")
    (result,) = trainer().validate(module, datamodule=data, verbose=False)
    batch = data.rows["validation"].batch
    error = (module(batch.x) - batch.y).detach().double()
    assert result["val/rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-5)
    assert result["val/mae"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
    variance = (batch.y.double() - batch.y.double().mean()).square().mean()
    assert result["val/r2"] == pytest.approx(1 - (error.square().mean() / variance).item(), rel=1e-4)
    standardized = error / data.statistics.y_std
    assert result["val/loss"] == pytest.approx(standardized.square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.HuberLoss(), nn.GaussianNLLLoss()])
def test_each_loss_trains(loss):
    torch.manual_seed(0)
    module = GradientNormRegressor(network, [GradientNormPenalty(0.1)], loss=loss)
    data = TabularRegression("diabetes")
    run = trainer(max_epochs=15)
    run.fit(module, datamodule=data)
    (result,) = run.validate(module, datamodule=data, verbose=False)
    assert result["val/r2"] > 0.2  # the mean predicts 0
    assert module(torch.zeros(3, 10)).shape == (3, 1)


def test_the_gaussian_likelihood_is_torchs():
    module = GradientNormRegressor(network, loss=nn.GaussianNLLLoss(full=True))
    module._build(*(module_part for module_part in _identity()))
    batch = Batch(torch.randn(4, 10), torch.randn(4, 1))
    mean, log_variance = module.network(batch.x).chunk(2, dim=-1)
    normal = torch.distributions.Normal(mean, log_variance.mul(0.5).exp())
    torch.testing.assert_close(module.loss(batch), -normal.log_prob(batch.y).mean())


def _identity():
    from gradgrad.standardize import Standardize

    return Standardize.placeholder(10), Standardize.placeholder(1)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_gradient_norm_is_logged_with_clipping_and_accumulation(accumulate):
    torch.manual_seed(0)
    module = Recorder(network)
    trainer(max_epochs=1, accumulate_grad_batches=accumulate, gradient_clip_val=1e-3).fit(
        module, datamodule=TabularRegression("diabetes")
    )
    norms = module.seen["train/gradient_norm"]
    assert len(norms) == -(-10 // accumulate)
    assert min(norms) > 1e-3  # measured before clipping


def test_a_checkpoint_needs_no_datamodule(tmp_path):
    module, run = GradientNormRegressor(network), trainer(max_epochs=1)
    run.fit(module, datamodule=TabularRegression("diabetes"))
    run.save_checkpoint(tmp_path / "x.ckpt")
    loaded = GradientNormRegressor.load_from_checkpoint(tmp_path / "x.ckpt", network=network)
    assert torch.equal(weights(loaded), weights(module))
    x = torch.randn(3, 10)
    assert torch.equal(loaded(x), module(x))
    assert torch.load(tmp_path / "x.ckpt", weights_only=True).get("hyper_parameters") is None


class NoStatistics(LightningDataModule):
    def train_dataloader(self):
        return DataLoader([Batch(torch.zeros(2), torch.zeros(1))])

    val_dataloader = train_dataloader


def test_data_without_statistics_is_refused():
    with pytest.raises(
        UsageError,
        match=r"^GradientNormRegressor got data from NoStatistics, which has no statistics of its training part\.\n"
        r"expected: a LightningDataModule with an attribute `statistics` \(gradgrad\.batches\.Statistics\)\n"
        r"write:    data: gradgrad\.datamodules\.TabularRegression, or give yours that attribute in setup\(\)$",
    ):
        trainer().fit(GradientNormRegressor(network), datamodule=NoStatistics())


class Own(LightningDataModule):
    """A stranger's datamodule: two features, collated by torch."""

    statistics = Statistics(torch.zeros(2), torch.ones(2), torch.zeros(1), torch.ones(1))

    def train_dataloader(self):
        return DataLoader([Batch(torch.rand(2), torch.rand(1)) for _ in range(4)], batch_size=2)

    val_dataloader = train_dataloader


def test_any_datamodule_with_statistics_serves():
    module = GradientNormRegressor(network)
    trainer(max_epochs=1).fit(module, datamodule=Own())
    assert module.network.layers[0].in_features == 2


@pytest.mark.parametrize(
    ("scheduler", "key"),
    [
        (lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1), "lr_scheduler"),
        (None, None),
    ],
)
def test_configure_optimizers(scheduler, key):
    module = GradientNormRegressor(network, scheduler=scheduler)
    module._build(*_identity())
    configured = module.configure_optimizers()
    assert isinstance(configured, torch.optim.Adam) if key is None else set(configured) == {"optimizer", key}


def test_a_plateau_scheduler_brings_its_monitor():
    from lightning.pytorch.cli import ReduceLROnPlateau

    module = GradientNormRegressor(network, scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/loss"))
    module._build(*_identity())
    assert module.configure_optimizers()["lr_scheduler"]["monitor"] == "val/loss"
