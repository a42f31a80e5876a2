"""What cannot be meta-learned is said in a sentence with the remedy, before the first step where that can be."""

import re

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from test_maml import NORMALIZED, Recorder, fitted, network, sinusoids, trainer
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from gradgrad.adaptation import SGD, Implicit, Reptile, Unrolled
from gradgrad.errors import UsageError
from gradgrad.modules import MAML


def says(text):
    return pytest.raises(UsageError, match=f"^{re.escape(text)}$")


class Untouched(MAML):
    """Refuse to make a step: the sentence is to come before."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("too late")


def layers(*between):
    return lambda features, outputs: nn.Sequential(nn.Linear(features, 4), *between, nn.Linear(4, outputs))


def test_running_statistics():
    with says(
        "MAML got a network with running statistics (1): tasks would mix in them, out of order.\n"
        "expected: normalization by each task's own batch (transductive, as in Finn et al. 2017), or by group or layer\n"
        "write:    track_running_stats=False, or nn.GroupNorm, nn.LayerNorm"
    ):
        fitted(Untouched(layers(nn.BatchNorm1d(4))))
    for kind in NORMALIZED:
        assert fitted(MAML(NORMALIZED[kind])).trainer.global_step == 3


def test_dropout():
    with says(
        "MAML got a network with dropout (1), and no word on how tasks share its random numbers.\n"
        "write:    model.init_args.randomness: different (each task its own), or same"
    ):
        fitted(Untouched(layers(nn.Dropout(0.5))))
    assert fitted(MAML(layers(nn.Dropout(0.0)))).trainer.global_step == 3
    for randomness in ("different", "same"):
        for mode in ("vmap", "chunked", "loop") if randomness == "different" else ("vmap",):
            assert fitted(MAML(layers(nn.Dropout(0.5)), randomness=randomness, mode=mode)).trainer.global_step == 3
    for mode in ("chunked", "loop"):
        with says(f"randomness: same needs all tasks at once, not mode {mode}.\nwrite:    mode: vmap, or randomness: different"):
            fitted(Untouched(layers(nn.Dropout(0.5)), randomness="same", mode=mode))


class Attention(nn.Module):
    """Samples of a task attend to one another."""

    def __init__(self, features, outputs):
        super().__init__()
        self.into, self.out = nn.Linear(features, 6), nn.Linear(2, outputs)

    def forward(self, x):
        q, k, v = (part[None, None] for part in self.into(x).chunk(3, 1))
        return self.out(scaled_dot_product_attention(q, k, v)[0, 0])


@pytest.mark.parametrize("mode", ["auto", "loop"])
def test_attention_needs_no_setting(mode):
    logger = Recorder()
    module = fitted(MAML(Attention, SGD(0.1), 2, mode=mode), max_steps=9, logger=logger)
    trainer(logger=logger).test(module, datamodule=sinusoids(), verbose=False)
    assert np.isfinite([value for _, metrics in logger.rows for value in metrics.values()]).all()


class Branches(nn.Module):
    """Looks at its numbers: no torch.func for it."""

    def __init__(self, features, outputs):
        super().__init__()
        self.layer = nn.Linear(features, outputs)

    def forward(self, x):
        return self.layer(x).tanh() if x.sum().item() > 0 else self.layer(x).sin()


@pytest.mark.parametrize("mode", ["vmap", "chunked"])
@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_a_network_that_torch_func_refuses(mode, stage):
    module = MAML(Branches, mode=mode)
    sentence = (
        r"^MAML got a network that torch\.func refuses: vmap: It looks like you're calling \.item\(\) on a Tensor\..*\n"
        r"write:    model\.init_args\.mode: loop, compile: false \(torch\.autograd, task by task\)$"
    )
    with pytest.raises(UsageError, match=sentence):
        fitted(module) if stage == "fit" else getattr(trainer(), stage)(module, datamodule=sinusoids())
    module = fitted(MAML(Branches, mode="loop"), max_steps=9)
    trainer().test(module, datamodule=sinusoids(), verbose=False)
    trainer().predict(module, datamodule=sinusoids())


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos()


def test_other_mistakes_stay_what_they_are():
    class Wrong(nn.Module):
        def __init__(self, features, outputs):
            super().__init__()
            self.layer = nn.Linear(features + 1, outputs)

        def forward(self, x):
            return self.layer(x)

    said = {"vmap": "Expected size for first two dimensions of batch2 tensor", "loop": "shapes cannot be multiplied"}
    for mode, text in said.items():
        with pytest.raises(RuntimeError, match=text) as error:
            fitted(MAML(Wrong, mode=mode))
        assert not isinstance(error.value, UsageError)


@pytest.mark.parametrize(
    ("gradient", "kind"),
    [(Reptile(), "Reptile"), (Implicit(), "Implicit"), (Unrolled(checkpoint=True), "Unrolled with checkpoint")],
    ids=["Reptile", "Implicit", "checkpoint"],
)
def test_what_is_not_compiled(gradient, kind):
    with says(f"MAML got compile: true with {kind}, which is not compiled.\nwrite:    compile: false"):
        fitted(Untouched(network, meta_gradient=gradient, compile=True))
    assert fitted(MAML(network, meta_gradient=gradient)).trainer.global_step == 3


def test_loop_is_not_compiled():
    with says("mode loop cannot be compiled: it exists for what torch.func refuses.\nwrite:    mode: vmap, or compile: false"):
        fitted(Untouched(network, mode="loop", compile=True))


def test_reptile_moves_only_what_adapts():
    write = "; it moves only what adapts.\nwrite:    learn: null and adapt: null, or meta_gradient: gradgrad.adaptation.Unrolled"
    with says("Reptile got an inner optimizer with learned rates" + write):
        fitted(Untouched(network, SGD(0.1, "tensor"), meta_gradient=Reptile()))
    with says("Reptile got parameters that do not adapt, layers.0.weight for one" + write):
        fitted(Untouched(network, adapt="layers.2.*", meta_gradient=Reptile()))


def test_implicit_gradients_know_no_rates():
    with says(
        "Implicit got an inner optimizer with learned rates, on which its gradient does not depend.\n"
        "write:    learn: null, or meta_gradient: gradgrad.adaptation.Unrolled"
    ):
        fitted(Untouched(network, SGD(0.1, "element"), meta_gradient=Implicit()))


def test_checkpoints_between_two_steps(tmp_path):
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=10)
    with says(
        "ModelCheckpoint got every_n_train_steps 10, and MAML makes 7 iterations per step.\n"
        "write:    every_n_train_steps: 14, or model.init_args.iterations_per_step: a divisor of 10"
    ):
        data = sinusoids(iterations_per_epoch=14)
        fitted(Untouched(network, iterations_per_step=7), data, callbacks=[keep], enable_checkpointing=True)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4)
    with says(
        "ModelCheckpoint got every_n_train_steps 4, but an epoch of 9 iterations ends with a short step of 1,\n"
        "after which steps of 2 no longer meet it.\n"
        "write:    data.init_args.iterations_per_epoch: 10"
    ):
        fitted(Untouched(network, iterations_per_step=2), callbacks=[keep], enable_checkpointing=True)


def test_data_without_a_shape():
    class Data(LightningDataModule):
        def train_dataloader(self):
            return range(3)

        val_dataloader = train_dataloader

    with says(
        "Untouched got data from Data, which does not say what its tasks look like.\n"
        "expected: a LightningDataModule with an attribute `task_shape` (gradgrad.batches.TaskShape)\n"
        "write:    data: gradgrad.datamodules.SinusoidTasks, or give yours that attribute"
    ):
        fitted(Untouched(network), Data())


def test_nothing_adapts():
    with says(
        "MAML got adapt 'layer.2.*', which matches none of: "
        "layers.0.weight, layers.0.bias, layers.2.weight, layers.2.bias\n"
        "write:    layers.2.bias, or another glob, or a regular expression that begins with ^"
    ):
        fitted(Untouched(network, adapt="layer.2.*"))
    with says("MAML got adapt '^(', which is no regular expression: missing ), unterminated subpattern at position 1."):
        fitted(Untouched(network, adapt=["layers.2.*", "^("]))


def test_several_patterns_choose_in_the_order_of_the_network():
    module = fitted(MAML(network, adapt=["layers.2.bias", "^0|layers.0"]))
    assert module.learner.names == ("layers.0.weight", "layers.0.bias", "layers.2.bias")


@pytest.mark.parametrize(
    "setting",
    [
        {"inner_steps": 0},
        {"iterations_per_step": 0},
        {"chunk_size": -1},
        {"eval_inner_steps": -1},
        {"curve_steps": -2},
        {"diverged_above": 0.0},
        {"diverged_above": float("nan")},
    ],
    ids=str,
)
def test_sizes(setting):
    ((name, value),) = setting.items()
    least = (
        "1 or more" if name in ("inner_steps", "iterations_per_step", "chunk_size") else "0 or more, diverged_above more than 0"
    )
    with says(f"MAML got {name} {value}; expected {least}."):
        MAML(network, **setting)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan")])
def test_clip_norm(clip_norm):
    with says(f"MAML got clip_norm {clip_norm}; expected a positive number, or null for no clipping."):
        MAML(network, clip_norm=clip_norm)


def test_an_unknown_mode():
    with says("mode is 'vamp'; expected vmap, chunked or loop."):
        fitted(Untouched(network, mode="vamp"))
