"""The short way to take a step against Lightning's."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from test_maml import LEARNERS, Recorder, fitted, network, sinusoids, weights

from gradgrad.adaptation import SGD
from gradgrad.adaptation.execution import Execution
from gradgrad.modules import MAML

CALLS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")


class Listener(Callback):
    """Count calls, and what the gradient is at each."""

    def __init__(self):
        self.calls, self.norms = dict.fromkeys(CALLS, 0), []

    def on_before_backward(self, *args):
        self.calls["on_before_backward"] += 1

    def on_after_backward(self, *args):
        self.calls["on_after_backward"] += 1

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.calls["on_before_optimizer_step"] += 1
        self.norms.append(norm_of(module))


def norm_of(module):
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item()


def hearing(name):
    """A callback that overrides one hook."""
    return type("One", (Callback,), {name: lambda self, *args: None})()


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_both_ways_lead_to_the_same_place(kind, clip_norm):
    modules, loggers, listener = [], [], Listener()
    for callbacks in ([], [listener]):
        loggers.append(Recorder())
        module = LEARNERS[kind](clip_norm=clip_norm, iterations_per_step=2)
        modules.append(fitted(module, max_steps=5, callbacks=callbacks, logger=loggers[-1]))
    short, long = modules
    assert (short._descent.direct, long._descent.direct) == (True, False)
    assert torch.equal(weights(short), weights(long))
    assert short.trainer.global_step == long.trainer.global_step == 5
    assert loggers[0].rows == loggers[1].rows
    assert set(listener.calls.values()) == {5}


@pytest.mark.parametrize("hook", CALLS)
def test_whoever_listens_is_heard(hook):
    assert not fitted(MAML(network), max_steps=1, callbacks=[hearing(hook)])._descent.direct
    assert fitted(MAML(network), max_steps=1, callbacks=[hearing("on_train_batch_end")])._descent.direct

    class Listening(MAML):
        heard = 0

    def heard(self, *args):
        self.heard += 1

    setattr(Listening, hook, heard)
    module = fitted(Listening(network))
    assert not module._descent.direct
    assert module.heard == 3


@pytest.mark.parametrize("callbacks", [[], [hearing("on_after_backward")]], ids=["short", "long"])
def test_clipping(callbacks, float64):
    """A step of gradient descent of rate 1 by hand: the gradient, shortened to the norm that was asked for."""

    def made(**more):
        return MAML(network, SGD(0.1), optimizer=lambda params: torch.optim.SGD(params, lr=1.0), **more)

    start = fitted(made(), max_steps=1, precision="64-true", limit_train_batches=0)
    meta = start.learner.meta()
    step = start.meta_gradient(start.learner, meta, sinusoids().tasks("train", 0, 4), Execution(), 0)
    gradient = torch.cat([g.flatten() for g in step.gradients.values()])
    for share in (0.1, 0.9, 1.1):
        logger, clip = Recorder(), share * gradient.norm().item()
        module = fitted(made(clip_norm=clip), max_steps=1, precision="64-true", callbacks=callbacks, logger=logger)
        shortened = gradient * min(share, 1)
        # PyTorch adds 1e-6 to the norm that it divides by.
        torch.testing.assert_close(weights(start) - weights(module), shortened, rtol=0, atol=2e-6 * shortened.norm().item())
        assert norm_of(module) <= clip * (1 + 1e-12)
        assert logger.rows[0][1]["train/gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-12)


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions(kind, precision):
    single, other = (fitted(LEARNERS[kind](), max_steps=9, precision=name) for name in ("32-true", precision))
    begin = fitted(LEARNERS[kind](), limit_train_batches=0, max_steps=1)
    assert other.network.layers[0].weight.dtype == (torch.float64 if precision == "64-true" else torch.float32)
    moved = (weights(single) - weights(begin)).norm()
    # Adam's first steps are as long as its rate whatever the gradient; signs of tiny gradients may differ in 8 bits.
    share = 1e-3 if precision == "64-true" else 0.5
    assert 0 < (weights(other).float() - weights(single)).norm() < share * moved


def test_a_scaled_loss():
    """float16 on a GPU; the scaler knows the CPU too. Clipping is of the gradient itself, and what is logged as well."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    loggers = [Recorder(), Recorder()]

    def made():
        return MAML(network, SGD(0.1), optimizer=lambda params: torch.optim.SGD(params, lr=0.1), clip_norm=0.5)

    scaled = fitted(made(), plugins=[plugin], logger=loggers[0])
    assert scaled._descent.scaler is plugin.scaler
    assert not scaled._descent.direct
    single = fitted(made(), logger=loggers[1])
    begin = fitted(made(), limit_train_batches=0, max_steps=1)
    assert scaled.trainer.global_step == 3
    norms = [[metrics["train/gradient_norm"] for _, metrics in logger.rows if "train/loss" in metrics] for logger in loggers]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)  # float16 has 11 bits, through some 40 operations
    assert min(norms[1]) > 0.5  # it was clipped
    assert (weights(scaled) - weights(single)).norm() < 0.02 * (weights(single) - weights(begin)).norm()
