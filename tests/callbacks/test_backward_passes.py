"""Passes per optimizer step against what the mathematics says."""

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.autograd import Variable

from gradgrad.callbacks import HessianSpectrum
from gradgrad.callbacks.backward_passes import BackwardPasses
from gradgrad.datamodules import SinusoidTasks
from gradgrad.modules import MAML
from gradgrad.networks import MLP
from gradgrad.penalties import GradientNormPenalty, penalize
from strangers import Stranger, fitted


class Counted(Callback):
    """The counter alone, without a run."""

    def on_train_start(self, trainer, pl_module):
        self.passes = BackwardPasses(pl_module)
        self.passes.start(trainer.global_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.passes.after_batch(trainer.global_step)

    def on_train_end(self, trainer, pl_module):
        self.passes.stop()


class Penalized(Stranger):
    def __init__(self, penalty):
        super().__init__()
        del self.loss  # which is a module: penalties want a method
        self.penalty = penalty

    def loss(self, batch):
        x, y = batch
        return (self(x) - y).square().mean()

    def training_step(self, batch, batch_idx):
        return penalize(self, batch, [self.penalty], self.global_step).total


class Functional(Stranger):
    """torch.func instead of autograd.grad, over each sample by itself."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        params = dict(self.net.named_parameters())

        def error(params, x, y):
            return (torch.func.functional_call(self.net, params, (x,)) - y).square().mean()

        gradients = torch.vmap(torch.func.grad(error), (None, 0, 0))(params, x, y)
        return error(params, x, y) + 0.01 * sum(g.square().mean() for g in gradients.values())


@torch.compile(backend="aot_eager")
def slope(x):
    return torch.autograd.grad((x**3).sum(), x)[0]


class WithinAProgram(Stranger):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x + 0.01 * slope(x.clone().requires_grad_()).detach()), y)


def maml(steps, **settings):
    return MAML(lambda inputs, outputs: MLP(inputs, outputs, [5]), inner_steps=steps, **settings)


def sinusoids():
    return SinusoidTasks(shots=3, meta_batch_size=4, eval_tasks=2, iterations_per_epoch=3)


CASES = {
    "plain": (Stranger, {}, 1),
    "accumulation": (Stranger, {"accumulate_grad_batches": 2}, 1.5),  # three batches are an epoch, and two steps
    "gradient norm": (lambda: Penalized(settled(GradientNormPenalty(0.1))), {}, 2),
    "every other step": (lambda: Penalized(settled(GradientNormPenalty(0.1, every=2))), {}, 1.5),
    "torch.func": (Functional, {}, 2),
    "torch.compile": (lambda: Stranger(nn.Sequential(torch.compile(nn.Linear(3, 1), backend="aot_eager"))), {}, 1),
    "MAML": (lambda: maml(3), {"data": sinusoids}, 4),
    "MAML, chunks of two": (lambda: maml(1, mode="chunked", chunk_size=2), {"data": sinusoids}, 4),
}


def settled(penalty):
    penalty.proved = True  # the proof at the first step takes passes of its own
    return penalty


def passes_of(make, settings, callbacks=()):
    torch.manual_seed(0)
    counted, engine = Counted(), Variable._execution_engine
    settings = {**settings, **({"data": settings["data"]()} if "data" in settings else {})}
    trainer = fitted(make(), [counted, *callbacks], **settings)
    assert Variable._execution_engine is engine
    return counted.passes.per_step(), trainer


@pytest.mark.parametrize(("make", "settings", "expected"), CASES.values(), ids=CASES.keys())
def test_passes_of_a_step(make, settings, expected):
    passes, _ = passes_of(make, settings)
    assert passes == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("first", [True, False])
def test_what_callbacks_differentiate_is_not_counted(first):
    spectrum = HessianSpectrum(every_n_steps=1, k=1)
    counted, engine = Counted(), Variable._execution_engine
    trainer = fitted(Stranger(), [spectrum, counted] if first else [counted, spectrum])
    assert counted.passes.per_step() == 1
    assert trainer.logger.history("hessian/lambda_max")
    assert Variable._execution_engine is engine


def test_a_compiled_gradient_cannot_be_counted_and_is_not():
    passes, trainer = passes_of(lambda: maml(2, compile=True), {"data": sinusoids, "max_steps": 3})
    assert trainer.global_step == 3
    assert passes is None


def test_a_gradient_within_torch_compile_is_trained_on_as_without_the_counter():
    seen = []
    for callbacks in ([], [Counted()]):
        torch._dynamo.reset()
        torch.manual_seed(0)
        seen.append(list(fitted(WithinAProgram(), callbacks, max_steps=3).lightning_module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
