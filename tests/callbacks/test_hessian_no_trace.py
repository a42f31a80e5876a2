"""Training with the callback is training without it, to the last bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gradgrad.callbacks import HessianSpectrum
from gradgrad.datamodules import SinusoidTasks
from gradgrad.modules import MAML
from gradgrad.networks import MLP
from strangers import Stranger, fitted, loader


class Noisy(Dataset):
    """Augments with all three kinds of random numbers."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        x = torch.full((3,), float(i)) / 20 + torch.randn(3) + random.random() + np.random.rand()
        return x, x.sum(0, keepdim=True)


def batchnorm():
    return Stranger(nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)))


def dropout():
    return Stranger(nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 1)))


def spectral_norm():
    return Stranger(nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 6)), nn.Tanh(), nn.Linear(6, 1)))


def maml():
    return MAML(lambda inputs, outputs: MLP(inputs, outputs, [5]), inner_steps=2)


class Meter:
    def __init__(self):
        self.total, self.inner = 0, {"a": {"b": [0]}}


class Collector(Stranger):
    """Remembers in every way that people remember, and lets the loss depend on all of it."""

    def __init__(self):
        super().__init__()
        self.average = nn.Linear(3, 1).requires_grad_(False)
        self.register_buffer("scale", torch.ones(1))
        self.generators = [torch.Generator().manual_seed(0), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)]
        self.meter, self.array, self.inside = Meter(), np.zeros(1), [torch.zeros(1)]

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            self.average.weight.mul_(0.9).add_(self.net[0].weight[:1], alpha=0.1)
        self.scale.data.mul_(0.9)
        self.meter.total += 1
        self.meter.inner["a"]["b"][0] += 1
        self.array += 1
        self.inside[0] += 1
        torch_, generator, legacy, python = self.generators
        noise = torch.rand(1, generator=torch_) + generator.random() + legacy.rand() + python.random()
        remembered = self.meter.total + self.meter.inner["a"]["b"][0] + float(self.array[0]) + self.inside[0]
        return (self(x) - y + self.average(x) + self.scale + 0.1 * noise + 0.1 * remembered).square().mean()


class Numbered(Dataset):
    """With a generator of its own."""

    def __init__(self):
        self.generator, self.taken = np.random.default_rng(0), 0

    def __len__(self):
        return 20

    def __getitem__(self, i):
        self.taken += 1
        x = torch.full((3,), float(i)) / 20 + self.generator.random() + 0.01 * self.taken
        return x, x.sum(0, keepdim=True)


class Stream(IterableDataset):
    """Remembers how far it has been read."""

    def __init__(self):
        self.place, self.generator = 0, torch.Generator().manual_seed(0)

    def __iter__(self):
        while self.place < 80:
            self.place += 1
            x = torch.full((3,), self.place / 80) + torch.rand(3, generator=self.generator)
            yield x, x.sum(0, keepdim=True)


def streamed(**settings):
    return lambda: DataLoader(Stream(), batch_size=8, **settings)


CASES = {
    "memories": (Collector, {}),
    "data with a generator": (Stranger, {"data": lambda: DataLoader(Numbered(), batch_size=8, shuffle=True)}),
    "a stream": (Stranger, {"data": streamed()}),
    "workers that stay": (Stranger, {"data": streamed(num_workers=1, persistent_workers=True)}),
    "plain": (Stranger, {}),
    "batchnorm": (batchnorm, {}),
    "dropout": (dropout, {}),
    "spectral norm": (spectral_norm, {}),
    "augmented data": (Stranger, {"data": lambda: DataLoader(Noisy(), batch_size=8, shuffle=True)}),
    "accumulation": (dropout, {"accumulate_grad_batches": 2}),
    "bf16-mixed": (dropout, {"precision": "bf16-mixed"}),
    "clipping": (batchnorm, {"gradient_clip_val": 0.1}),
    "maml": (maml, {"data": lambda: SinusoidTasks(shots=3, meta_batch_size=4, eval_tasks=2, iterations_per_epoch=3)}),
}


def outcome(make, settings, callbacks):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    module = make()
    settings = {**settings, **({"data": settings["data"]()} if "data" in settings else {})}
    trainer = fitted(module, callbacks, **settings)
    return {
        "weights and buffers": module.state_dict(),
        "gradients": [p.grad for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "trained": [p.requires_grad for p in module.parameters()],
        "optimizer": trainer.optimizers[0].state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1],
        "logged": [(step, plain) for step, row in trainer.logger.rows if (plain := without(row))],
        "attributes": [getattr(module, name, None) for name in ("calls", "seen", "per_stage", "log", "print")][:3],
        "stubs": [name for name in ("log", "log_dict", "print") if name in module.__dict__],
        "metric": module.error.metric_state if isinstance(module, Stranger) else None,
        "seen by the trainer": {k: v.item() for k, v in trainer.callback_metrics.items()},
    }


def without(row):
    return {name: value for name, value in row.items() if not name.startswith("hessian/")}


def same(a, b):
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", CASES)
def test_bit_identical(case, mode):
    make, settings = CASES[case]
    measured = HessianSpectrum(k=2, which="BE", every_n_steps=1, trace_probes=9, density_every=2, mode=mode, on_error="raise")
    bare, watched = outcome(make, settings, []), outcome(make, settings, [measured])
    assert len(measured.history.rows) == 7
    for name, value in bare.items():
        assert same(value, watched[name]), name


def test_a_measurement_that_fails_leaves_no_trace_either():
    class Fails(Stranger):
        def training_step(self, batch, batch_idx):
            if not self.training:
                torch.rand(3), random.random(), np.random.rand(3)
                self.calls += 100
                raise ValueError("on purpose")
            return super().training_step(batch, batch_idx)

    bare = outcome(Fails, {}, [])
    with pytest.warns(UserWarning, match="could not measure at step 0, and logs NaN: ValueError: on purpose"):
        watched = outcome(Fails, {}, [HessianSpectrum(every_n_steps=1)])
    for name, value in bare.items():
        assert same(value, watched[name]), name


def test_the_comparison_can_fail():
    """The table above would notice what it is about."""

    class Clumsy(HessianSpectrum):
        def _measure(self, trainer, module, batch=None):
            module(torch.randn(4, 3))

    assert not same(outcome(batchnorm, {}, [])["weights and buffers"], outcome(batchnorm, {}, [Clumsy()])["weights and buffers"])
    assert not same(outcome(Stranger, {}, [])["torch"], outcome(Stranger, {}, [Clumsy()])["torch"])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_dropout_and_statistics_of_a_measurement(mode):
    """One mask for all products and all measurements: at constant weights, constant numbers."""
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6, momentum=0.0), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 1))
    callback = HessianSpectrum(every_n_steps=1, tol=1e-5, mode=mode, on_error="raise")
    trainer = fitted(Stranger(network, lr=0.0).double(), [callback], data=loader(dtype=torch.float64), max_steps=3)
    found = [value for _, value in trainer.logger.history("hessian/lambda_max")]
    assert found == pytest.approx([found[0]] * 4, rel=1e-9)
