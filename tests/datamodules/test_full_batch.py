"""Small sets of data that every step sees whole."""

import math
import re

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from gradgrad.batches import Batch
from gradgrad.datamodules import ChebyshevRegression, GaussianBlobs, WhitenedLinearRegression
from gradgrad.errors import UsageError
from gradgrad.modules import HalfSquaredError
from gradgrad.networks import MLP, DeepLinear

KINDS = [ChebyshevRegression, WhitenedLinearRegression, GaussianBlobs]


class Watcher(LightningModule):
    """Keep the batches that arrive."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.weight * batch.x.sum()

    def validation_step(self, batch, batch_idx):
        self.validated = self.global_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trained(data, **settings):
    module = Watcher()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", devices=1, max_epochs=-1, num_sanity_val_steps=0, **quiet, **settings).fit(module, datamodule=data)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_sees_the_same_samples_without_a_copy(kind):
    data = kind(steps_per_epoch=3)
    module = trained(data, max_steps=7)
    assert len(module.seen) == 7
    assert all(batch is module.seen[0] for batch in module.seen)
    assert all(torch.equal(seen, own) for seen, own in zip(module.seen[0], kind().batch, strict=True))


def test_a_short_run_is_validated_too():
    assert trained(ChebyshevRegression(steps_per_epoch=1000), max_steps=4).validated == 4


def test_samples_come_in_the_runs_precision():
    module = trained(ChebyshevRegression(), max_steps=1, precision="64-true")
    assert module.seen[0].x.dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_provenance_changes_with_any_value(kind):
    (part,) = kind().provenance()
    (same,) = kind().provenance()
    assert part == same
    assert (part.part, part.rows) == ("training", len(kind().batch.x))
    other = kind()
    other.batch = Batch(other.batch.x.clone(), other.batch.y.clone())
    other.batch.y.flatten()[3] += 1
    assert other.provenance()[0].digest != part.digest


def test_chebyshev_is_the_polynomial(float64):
    x, y = ChebyshevRegression(degree=4, points=20).batch
    assert x.shape == y.shape == (20, 1)
    assert x.diff(dim=0).sub(2 / 19).abs().max() < 1e-15
    assert y.sub(8 * x**4 - 8 * x**2 + 1).abs().max() < 1e-14


def test_whitened_inputs_have_no_preferred_direction(float64):
    x, y = WhitenedLinearRegression(samples=60, features=7, seed=3).batch
    assert (x.T @ x / 60).sub(torch.eye(7)).abs().max() < 1e-14
    weight = torch.linalg.lstsq(x, y).solution
    assert (x @ weight - y).abs().max() < 1e-12
    assert not torch.equal(x, WhitenedLinearRegression(samples=60, features=7, seed=4).batch.x)


def test_blobs_have_a_mean_and_classes(float64):
    x, y = GaussianBlobs(classes=4, samples=402, mean=1.5).batch
    assert y.bincount().tolist() == [101, 101, 100, 100]
    assert y.dtype == torch.int64
    # The mean of 30 x 402 numbers of deviation 1, on top of the mean of 120 centers.
    assert abs(x.mean().item() - 1.5) < 5 * (1 / math.sqrt(120) + 1 / math.sqrt(30 * 402))
    within = torch.cat([x[y == c] - x[y == c].mean(0) for c in range(4)])
    assert within.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / within.numel()) + 0.01)


def sharpness(network, data):
    """The largest eigenvalue of the Hessian: power iteration on the whole of it, shifted to be positive."""
    params = list(network.parameters())
    gradient = torch.autograd.grad(HalfSquaredError()(network(data.x), data.y), params, create_graph=True)
    vector = [torch.randn_like(p) for p in params]
    value = torch.zeros(())
    for _ in range(300):
        norm = torch.cat([v.flatten() for v in vector]).norm()
        vector = [v / norm for v in vector]
        product = torch.autograd.grad(gradient, params, vector, retain_graph=True)
        value = sum((v * p).sum() for v, p in zip(vector, product, strict=True))
        vector = list(product)
    return value.item()


def test_the_set_ups_of_cohen_begin_where_theirs_do():
    """Sharpness at their seeds, as the reference implementation has it: 4.03 and 2,973."""
    torch.manual_seed(0)
    network = MLP(1, 1, [100], gain=1.9, output_bias=False)
    assert sharpness(network, ChebyshevRegression().batch) == pytest.approx(4.03, abs=0.005)
    torch.manual_seed(8)
    assert sharpness(DeepLinear(), WhitenedLinearRegression().batch) == pytest.approx(2973, abs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_is_everything(kind):
    data = kind()
    (whole,) = data.probe_batches("train", 0, 1)
    assert all(torch.equal(a, b) for a, b in zip(whole, data.batch, strict=True))
    (half,) = data.probe_batches(None, 1, 2)
    assert torch.equal(half.x, data.batch.x[1::2])
    (moved,) = [data.transfer_batch_to_device(half, torch.device("cpu"), 0)]
    assert torch.equal(moved.x, half.x)
    assert ChebyshevRegression(points=2).probe_batches(2, 2, 3) == []


def test_a_part_as_probe_is_refused():
    with pytest.raises(
        UsageError,
        match=r"^ChebyshevRegression trains on all of its 20 samples, and a probe of 19 was asked for\.\nwrite:    probe: train$",
    ):
        ChebyshevRegression().probe_batches(19, 0, 1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ChebyshevRegression(degree=0), "ChebyshevRegression got degree 0.\nwrite: data.init_args.degree, at least 1"),
        (lambda: ChebyshevRegression(points=1), "ChebyshevRegression got points 1.\nwrite: data.init_args.points, at least 2"),
        (
            lambda: WhitenedLinearRegression(samples=3, features=4),
            "WhitenedLinearRegression got samples 3.\nwrite: data.init_args.samples, at least 4",
        ),
        (lambda: GaussianBlobs(classes=1), "GaussianBlobs got classes 1.\nwrite: data.init_args.classes, at least 2"),
        (
            lambda: GaussianBlobs(steps_per_epoch=0),
            "GaussianBlobs got steps_per_epoch 0.\nwrite: data.init_args.steps_per_epoch, at least 1",
        ),
    ],
)
def test_sizes_that_are_too_small(make, sentence):
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        make()
