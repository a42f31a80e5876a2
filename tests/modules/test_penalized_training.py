"""Every penalty under what Lightning does to a training: accumulation, clipping, mixed precision, resuming."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from gradgrad.datamodules import TabularRegression
from gradgrad.modules import GradientNormRegressor
from gradgrad.networks import MLP
from gradgrad.penalties import GradientNormPenalty, InputGradientPenalty, penalize

KINDS = {
    "exact": lambda: GradientNormPenalty(0.3, every=2, warmup_steps=3),
    "finite difference": lambda: GradientNormPenalty(0.3, method="finite_difference", radius=0.1, every=2, warmup_steps=3),
    "sam": lambda: GradientNormPenalty(1.0, method="sam", every=2, warmup_steps=3),
    "micro-batched": lambda: GradientNormPenalty(0.3, micro_batch_size=8, every=2, warmup_steps=3),
    "input": lambda: InputGradientPenalty(0.3, every=2, warmup_steps=3),
    "input of the loss": lambda: InputGradientPenalty(0.3, target="loss", every=2, warmup_steps=3),
}


def network(features, outputs):
    return MLP(features, outputs, [8])


def trainer(**settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 2, **quiet, **settings})


def fitted(penalties, **settings):
    torch.manual_seed(0)
    module = GradientNormRegressor(network, penalties)
    trainer(**settings).fit(module, datamodule=TabularRegression("diabetes"))
    return module


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Batches(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_adds_up_the_micro_batches(kind):
    penalty = KINDS[kind]()
    penalty.warmup_steps = 0
    batches = Batches()
    torch.manual_seed(0)
    module = GradientNormRegressor(network, [penalty], optimizer=lambda params: torch.optim.SGD(params, lr=0.01))
    trainer(max_steps=1, accumulate_grad_batches=3, limit_val_batches=0, callbacks=[batches]).fit(
        module, datamodule=TabularRegression("diabetes")
    )
    torch.manual_seed(0)
    start = MLP(10, 1, [8])
    after = [p.detach().clone() for p in module.network.parameters()]
    module.network.load_state_dict(start.state_dict())
    totals = [penalize(module._standardized(), module._standardize(batch), [penalty]).total for batch in batches.seen]
    assert len(totals) == 3
    gradients = torch.autograd.grad(sum(totals) / 3, list(module.network.parameters()))
    for p, g, end in zip(start.parameters(), gradients, after, strict=True):
        torch.testing.assert_close(end, p - 0.01 * g, rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_trains_to_about_the_same_place(kind):
    full, half = fitted([KINDS[kind]()]), fitted([KINDS[kind]()], precision="bf16-mixed")
    start = fitted([], max_epochs=0)
    # 20 steps in 8 bits lead to the same place within a tenth of the way.
    assert (weights(half) - weights(full)).norm() < 0.1 * (weights(full) - weights(start)).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_is_the_uninterrupted_one(kind, tmp_path):
    class Ordered(TabularRegression):  # a shuffled order is drawn from a generator that no checkpoint holds
        def train_dataloader(self):
            return self._loader("training")

    def run(epochs, folder, checkpoint=None):
        torch.manual_seed(0)
        module = GradientNormRegressor(network, [KINDS[kind]()])
        keep = ModelCheckpoint(tmp_path / folder, filename="last", every_n_epochs=1)
        trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[keep]).fit(
            module, datamodule=Ordered("diabetes"), ckpt_path=checkpoint
        )
        return weights(module)

    whole = run(3, "whole")
    run(1, "first")
    assert torch.equal(run(3, "second", checkpoint=str(tmp_path / "first" / "last.ckpt")), whole)


def test_clipping_bounds_the_gradient_of_loss_and_penalty_together():
    module = fitted([GradientNormPenalty(3.0)], gradient_clip_val=1e-3, max_steps=1)
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    assert norm <= 1e-3 * (1 + 1e-5)


def test_both_norms_are_logged():
    run = trainer(max_epochs=1)
    torch.manual_seed(0)
    module = GradientNormRegressor(network, [GradientNormPenalty(0.3), InputGradientPenalty(0.1)])
    run.fit(module, datamodule=TabularRegression("diabetes"))
    assert {"train/gradient_norm", "train/input_gradient_norm", "train/penalty"} <= set(run.logged_metrics)
    run = trainer(max_epochs=1)
    run.fit(GradientNormRegressor(network, [InputGradientPenalty(0.1)]), datamodule=TabularRegression("diabetes"))
    assert {"train/gradient_norm", "train/input_gradient_norm", "train/penalty"} <= set(run.logged_metrics)
