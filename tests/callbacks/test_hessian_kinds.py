"""On any kind of module: against the dense Hessian of the same loss."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from gradgrad.callbacks import HessianSpectrum
from gradgrad.datamodules import SinusoidTasks
from gradgrad.errors import UsageError
from gradgrad.modules import MAML
from gradgrad.networks import MLP
from strangers import Stranger, data, dense_hessian, fitted, loader


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.empty = nn.Linear(3, 1), nn.Linear(4, 4), nn.Parameter(torch.zeros(0))

    def forward(self, x):
        return self.used(x).tanh()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).tanh()).sum(1, keepdim=True)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, x):
        tokens = self.inside(x.unsqueeze(-1))
        return self.out(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.lstm(x.unsqueeze(-1))[0][:, -1])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.b(checkpoint(lambda z: self.a(z).tanh(), x, use_reentrant=False))


def frozen():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    net[0].requires_grad_(False)
    return net


def channels_last():
    convolution = nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)
    return nn.Sequential(nn.Unflatten(1, (3, 1, 1)), convolution, nn.Tanh(), nn.Flatten(), nn.Linear(4, 1))


def compiled():
    return torch.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), backend="aot_eager")


NETWORKS = {
    "unused": Unused,
    "frozen": frozen,
    "tied": Tied,
    "attention": Attention,
    "lstm": Recurrent,
    "checkpointed": Checkpointed,
    "compiled": compiled,
    "channels last": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 1, 1)),
        nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4, 1),
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what torch.compile imports, torch 2.13
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network(kind, operator):
    torch.manual_seed(0)
    callback = HessianSpectrum(tol=1e-6, operator=operator, on_error="raise")
    module = Stranger(NETWORKS[kind](), lr=0.0).double()
    trainer = fitted(module, [callback], data=loader(dtype=torch.float64), max_steps=1)
    x, y = data(dtype=torch.float64).tensors
    network = getattr(module.net, "_orig_mod", module.net)
    params = [p for p in module.parameters() if p.requires_grad and p.numel()]
    with sdpa_kernel(SDPBackend.MATH):
        outputs = network(x)
        if operator == "hessian":
            attached = sum(p.sum() for p in params) * 0 * (outputs.sum()) ** 2  # a graph from the unused ones, too
            dense = dense_hessian((outputs - y).square().mean() + attached, params)
        else:
            rows = [torch.autograd.grad(o, params, retain_graph=True, materialize_grads=True) for o in outputs.flatten()]
            jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
            dense = 2 * jacobian.T @ jacobian / len(x)
    found = trainer.logger.history(f"{operator}/lambda_max")[-1][1]
    assert found == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-9)
    shares = {name: value for name, value in trainer.logger.rows[0][1].items() if "/share/" in name}
    assert sum(shares.values()) == pytest.approx(1)
    assert not any("_orig_mod" in name for name in shares)


class Pairs(Stranger):
    """Batches as dicts, or dicts of several loaders' batches."""

    def training_step(self, batch, batch_idx):
        parts = batch.values() if "a" in batch else [batch]
        return torch.cat([self(part["x"]) - part["y"] for part in parts]).square().mean()


def dict_loader(rows):
    x, y = data(rows, dtype=torch.float64).tensors
    return DataLoader([{"x": a, "y": b} for a, b in zip(x, y, strict=True)], batch_size=8, shuffle=True)


@pytest.mark.parametrize("loaders", [lambda: dict_loader(20), lambda: {"a": dict_loader(20), "b": dict_loader(20)}])
def test_dicts_and_several_loaders(loaders):
    callback = HessianSpectrum(tol=1e-6, on_error="raise")
    module = Pairs(lr=0.0).double()
    trainer = fitted(module, [callback], data=loaders(), max_steps=2)
    x, y = data(dtype=torch.float64).tensors
    dense = dense_hessian((module(x) - y).square().mean(), list(module.parameters()))
    assert trainer.logger.history("hessian/lambda_max")[0][1] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-9)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(3), torch.randn(1)


class Once(IterableDataset):
    def __iter__(self):
        return self

    def __next__(self):
        return torch.randn(3), torch.randn(1)


@pytest.mark.parametrize("source", [Endless, Once])
def test_iterable_data(source):
    callback = HessianSpectrum(probe=32, on_error="raise")
    trainer = fitted(Stranger(lr=0.0), [callback], data=DataLoader(source(), batch_size=8), max_steps=2)
    assert callback.spectrometer.samples == 32
    assert len({value for _, value in trainer.logger.history("hessian/loss")}) == 1


class Opened(Once):
    def __init__(self):
        self.stream = (torch.randn(3) for _ in range(100))


def test_data_that_cannot_be_copied():
    sentence = r"drawn from a Opened, which cannot be copied: cannot pickle 'generator' object\nwrite:    probe: batch"
    with pytest.raises(UsageError, match=sentence):
        fitted(Stranger(), [HessianSpectrum()], data=DataLoader(Opened(), batch_size=8))
    fitted(Stranger(), [HessianSpectrum(probe="batch", on_error="raise")], data=DataLoader(Opened(), batch_size=8), max_steps=1)


def tasks(**settings):
    return SinusoidTasks(shots=3, meta_batch_size=4, eval_tasks=6, eval_batch_size=4, iterations_per_epoch=2, **settings)


@pytest.mark.parametrize("probe", [None, 3, "val"])
def test_the_meta_loss(probe):
    callback = HessianSpectrum(probe=probe, tol=1e-6, on_error="raise")
    module = MAML(lambda inputs, outputs: MLP(inputs, outputs, [3]), inner_steps=2, iterations_per_step=2)
    trainer = fitted(module, [callback], data=tasks(), precision="64-true", max_steps=2)
    assert callback.spectrometer.samples == {None: 4, 3: 3, "val": 6}[probe]
    made = trainer.datamodule.tasks("val" if probe == "val" else "train", 0, int(callback.spectrometer.samples))
    batch = type(made)(*(part.double() for part in made))
    params = [p for p in module.parameters() if p.requires_grad]
    dense = dense_hessian(module.loss(batch), params)
    (_, _), (step, found) = trainer.logger.history("hessian/lambda_max")
    # The tasks are drawn in the precision in which they are asked for.
    assert (step, found) == (2, pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-5))


def test_training_tasks_have_no_end():
    module = MAML(lambda inputs, outputs: MLP(inputs, outputs, [3]))
    with pytest.raises(UsageError, match=r"the training tasks of sinusoid have no end, so they cannot all be a probe."):
        fitted(module, [HessianSpectrum(probe="train")], data=tasks(), max_steps=1)


class Helper(Stranger):
    """A method of the name that we look for, which takes predictions."""

    def __init__(self):
        super().__init__(lr=0.0)
        del self.loss

    def loss(self, pred):
        return pred.square().mean()

    def training_step(self, *arguments):
        batch, _ = arguments
        batch = list(batch)
        batch[0].mul_(2.0)  # in place, as preprocessing may be
        y = batch.pop()
        return (self(batch[0]) - y).square().mean().unsqueeze(0)  # of shape (1,)


@pytest.mark.parametrize("probe", [None, "batch"])
def test_odd_steps(probe):
    callback = HessianSpectrum(every_n_steps=1, probe=probe, tol=1e-6, on_error="raise")
    trainer = fitted(Helper().double(), [callback], data=DataLoader(data(dtype=torch.float64), batch_size=20), max_steps=3)
    found = [value for _, value in trainer.logger.history("hessian/lambda_max")]
    assert len(found) == 4
    if probe is None:  # the batch at hand is what the training step has made of it
        assert found == pytest.approx([found[0]] * 4, rel=1e-9)


class Parts(Stranger):
    """Two submodules, the usual encoder and head; outputs are the head's."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), lr=0.0)
        self.head = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return (self.head(self.net(batch[0])) - batch[1]).square().mean()


def test_outputs_of_the_last_submodule():
    module = Parts().double()
    trainer = fitted(
        module, [HessianSpectrum(operator="ggn", tol=1e-6, on_error="raise")], data=loader(dtype=torch.float64), max_steps=1
    )
    x, _ = data(dtype=torch.float64).tensors
    outputs = module.head(module.net(x)).flatten()
    jacobian = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(o, list(module.parameters()), retain_graph=True)]) for o in outputs]
    )
    dense = 2 * jacobian.T @ jacobian / len(x)
    assert trainer.logger.history("ggn/lambda_max")[-1][1] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-9)


class Adaptive(Stranger):
    def __init__(self):
        super().__init__(Unused())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_preconditioned_with_parameters_that_never_move(precision):
    callback = HessianSpectrum(operator="preconditioned", every_n_steps=1, on_error="raise")
    trainer = fitted(Adaptive(), [callback], max_steps=3, precision=precision)
    assert [step for step, _ in trainer.logger.history("preconditioned/lambda_max")] == [1, 2, 3]


class Makes(Stranger):
    def training_step(self, batch, batch_idx):
        return (self(batch[0] @ torch.eye(3)) - batch[1]).square().mean()


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_tensors_that_a_step_makes(precision):
    fitted(Makes(), [HessianSpectrum(on_error="raise")], max_steps=2, precision=precision)


def test_rows_that_a_sampler_leaves_out():
    x, y = data(40).tensors
    y[20:] += 100.0  # never trained on
    rows = DataLoader(TensorDataset(x, y), batch_size=5, sampler=SubsetRandomSampler(range(20)))
    for probe in (None, "train"):
        callback = HessianSpectrum(probe=probe, on_error="raise")
        trainer = fitted(Stranger(lr=0.0), [callback], data=rows, max_steps=1)
        assert callback.spectrometer.samples == 20
        assert trainer.logger.history("hessian/loss")[0][1] < 100
    callback = HessianSpectrum(on_error="raise")
    fitted(Stranger(), [callback], data=DataLoader(TensorDataset(x, y), batch_size=5), max_steps=2, overfit_batches=2)
    assert callback.spectrometer.samples == 10


class Counted(NamedTuple):
    rows: list


def test_batches_whose_samples_are_not_known():
    sentence = r"in a batch of type Counted is not known.\nwrite:    def sample_count\(self, batch\) in Stranger"
    with pytest.raises(UsageError, match=sentence):
        fitted(Stranger(), [HessianSpectrum()], data=DataLoader([1, 2, 3], batch_size=3, collate_fn=Counted))


def test_no_gauss_newton_matrix_without_outputs():
    class Twice(Stranger):
        def training_step(self, batch, batch_idx):
            return (self(batch[0]) - self(batch[0] + 1)).square().mean()

    with pytest.raises(UsageError, match=r"the loss of Twice depends on 2.\nexpected: one call of self"):
        fitted(Twice(), [HessianSpectrum(operator="ggn", on_error="raise")], max_steps=1)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_reduced_precision(precision):
    torch.manual_seed(0)
    callback = HessianSpectrum(on_error="raise")
    module = Stranger(lr=0.0)
    full = torch.linalg.eigvalsh(
        dense_hessian((module.net(data().tensors[0]) - data().tensors[1]).square().mean(), list(module.parameters()))
    )
    trainer = fitted(module, [callback], precision=precision, max_steps=1)
    # A mixed module's weights are in full precision, and so is the measurement. bf16 has 8 bits.
    assert trainer.logger.history("hessian/lambda_max")[0][1] == pytest.approx(
        full[-1].item(), rel=1e-3 if "mixed" in precision else 0.1
    )
