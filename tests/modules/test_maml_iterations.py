"""Meta-iterations, however many there are in a step of the trainer's: counted, logged, resumed, scheduled alike."""

import gc

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import CSVLogger
from test_maml import LEARNERS, Recorder, fitted, network, sinusoids, trainer, weights
from torch.optim import lr_scheduler

from gradgrad.adaptation import SGD, Unrolled
from gradgrad.modules import MAML


def learned(**more):
    """Learned rates, Adam and a schedule: all that there is to remember, and an annealing that depends on the iteration."""
    return MAML(
        network,
        SGD(0.05, "element", per_step=True),
        2,
        meta_gradient=Unrolled(multi_step_iterations=15, first_order_iterations=4),
        scheduler=lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20),
        **more,
    )


class Steps(Callback):
    """How far the trainer had come at the end of each of its steps."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *args):
        self.seen.append(trainer.global_step)


def metrics_of(k, **settings):
    logger, steps = Recorder(), Steps()
    module = fitted(learned(iterations_per_step=k), max_steps=20, logger=logger, callbacks=[steps], **settings)
    return module, logger, steps.seen


@pytest.mark.parametrize("k", [2, 7])
def test_iterations_in_a_step_change_nothing(k):
    """Epochs of 9 and 20 iterations in all: 7 divides neither."""
    (one, alone, ends), (many, together, ends_together) = metrics_of(1), metrics_of(k)
    assert ends == list(range(1, 21))
    assert ends_together == {2: [2, 4, 6, 8, 9, 11, 13, 15, 17, 18, 20], 7: [7, 9, 16, 18, 20]}[k]
    assert one.trainer.global_step == many.trainer.global_step == 20
    assert torch.equal(weights(one), weights(many))
    assert alone.rows == together.rows
    assert alone.steps("train/loss") == alone.steps("train/gradient_norm") == list(range(1, 21))
    assert alone.steps("val/loss") == [9, 18]
    assert len({metrics["train/loss"] for _, metrics in alone.rows if "train/loss" in metrics}) == 20


def test_a_step_may_be_longer_than_an_epoch():
    """The last one ends at the limit, and with it Lightning's epoch: there is one more validation."""
    (one, alone, _), (many, together, ends) = metrics_of(1), metrics_of(100)
    assert ends == [9, 18, 20]
    assert torch.equal(weights(one), weights(many))
    assert together.rows[:-1] == alone.rows
    assert together.steps("val/loss") == [9, 18, 20]


@pytest.mark.filterwarnings("ignore:The number of training batches .2. is smaller than the logging interval")  # it counts blocks
@pytest.mark.parametrize("k", [1, 7])
def test_every_nth_iteration_is_logged(k):
    _, logger, _ = metrics_of(k, log_every_n_steps=3)
    _, every, _ = metrics_of(k)
    assert logger.steps("train/loss") == [3, 6, 9, 12, 15, 18]
    assert logger.rows == [row for row in every.rows if "val/loss" in row[1] or row[0] % 3 == 0]


def test_a_logger_of_lightnings_own(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    fitted(MAML(network, iterations_per_step=4), max_steps=9, logger=logger)
    head, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    places = {name: place for place, name in enumerate(head)}
    logged = {name: [int(row[places["step"]]) for row in rows if row[places[name]]] for name in ("train/loss", "val/loss")}
    assert logged == {"train/loss": list(range(1, 10)), "val/loss": [9]}


class Equal:
    """Compare states, tensor by tensor."""

    @staticmethod
    def check(got, expected):
        assert type(got) is type(expected)
        if isinstance(got, torch.Tensor):
            assert torch.equal(got, expected)
        elif isinstance(got, dict):
            assert got.keys() == expected.keys()
            for key, value in got.items():
                Equal.check(value, expected[key])
        elif isinstance(got, list | tuple):
            for one, other in zip(got, expected, strict=True):
                Equal.check(one, other)
        else:
            assert got == expected


@pytest.mark.parametrize(
    ("k", "per_epoch", "at"),
    [(1, 5, 10), (1, 9, 10), (5, 10, 10), (5, 15, 10), (2, 9, 13), (7, 9, 9), (7, 9, 16)],
    ids=["end of an epoch", "in mid-epoch", "5, end", "5, mid-epoch", "2, shorter block", "7, end", "7, mid-epoch"],
)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, k, per_epoch, at):
    class Keep(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == at:
                trainer.save_checkpoint(tmp_path / "at.ckpt")

    data = lambda: sinusoids(iterations_per_epoch=per_epoch)  # noqa: E731
    whole = fitted(learned(iterations_per_step=k, clip_norm=1.0), data(), max_steps=20, callbacks=[Keep()])
    fresh, logger = learned(iterations_per_step=k, clip_norm=1.0), Recorder()
    torch.manual_seed(7)
    resumed = fitted(fresh, data(), max_steps=20, logger=logger, ckpt_path=tmp_path / "at.ckpt")
    assert logger.steps("train/loss") == list(range(at + 1, 21))
    Equal.check(resumed.state_dict(), whole.state_dict())
    assert any(name.startswith("inner_optimizer") for name in whole.state_dict())
    Equal.check(resumed.optimizers().optimizer.state_dict(), whole.optimizers().optimizer.state_dict())
    Equal.check(resumed.lr_schedulers().state_dict(), whole.lr_schedulers().state_dict())
    assert whole.lr_schedulers().last_epoch == 20
    assert resumed.trainer.global_step == 20


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")  # the state after the step is what we want
@pytest.mark.parametrize(
    ("k", "per_epoch", "at"), [(1, 9, [4, 8, 12, 16, 20]), (2, 10, [4, 8, 12, 16, 20]), (4, 12, [4, 8, 12, 16, 20])]
)
def test_checkpoints_every_n_steps(tmp_path, k, per_epoch, at):
    def run(folder, checkpoint=None):
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
        settings = {"callbacks": [keep], "enable_checkpointing": True, "ckpt_path": checkpoint}
        return fitted(learned(iterations_per_step=k), sinusoids(iterations_per_epoch=per_epoch), max_steps=20, **settings)

    whole = run("whole")
    steps = sorted(int(path.stem.removeprefix("step=")) for path in (tmp_path / "whole").iterdir())
    assert steps == at
    resumed = run("resumed", tmp_path / "whole" / f"step={steps[1]}.ckpt")
    Equal.check(resumed.state_dict(), whole.state_dict())


def test_resuming_with_other_blocks(tmp_path):
    """From the end of an epoch on, the number of iterations in a step may differ."""
    fitted(learned(iterations_per_step=7), max_steps=9).trainer.save_checkpoint(tmp_path / "at.ckpt")
    whole = fitted(learned(), max_steps=20)
    resumed = fitted(learned(iterations_per_step=3), max_steps=20, ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("k", [1, 7])
def test_a_scheduler_steps_with_each_iteration(k):
    module = MAML(
        network,
        optimizer=lambda params: torch.optim.SGD(params, lr=1.0),
        scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer, 3, 0.5),
        iterations_per_step=k,
    )
    fitted(module, max_steps=20)
    assert module.optimizers().param_groups[0]["lr"] == 0.5**6


@pytest.mark.parametrize("k", [1, 7])
def test_a_plateau_is_looked_for_after_each_validation(k):
    """No improvement is ever large enough: the rate is halved at each validation but the first; the sanity check is none."""
    module = MAML(
        network,
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-3),
        scheduler=lambda o: ReduceLROnPlateau(o, "val/loss_median", factor=0.5, patience=0, threshold=1e9, threshold_mode="abs"),
        iterations_per_step=k,
    )
    logger = Recorder()
    fitted(module, max_steps=30, num_sanity_val_steps=-1, logger=logger)
    assert logger.steps("val/loss") == [9, 18, 27]
    assert module.optimizers().param_groups[0]["lr"] == 1e-3 / 4
    assert module.lr_schedulers().best == logger.rows[9][1]["val/loss_median"]
    trainer(logger=logger).validate(module, datamodule=sinusoids(), verbose=False)  # of no consequence for the rate


def test_torchs_own_plateau_watches_the_loss():
    def made(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs")

    logger = Recorder()
    module = fitted(MAML(network, scheduler=made), max_steps=18, logger=logger)
    assert module.optimizers().param_groups[0]["lr"] == 0.001 / 2
    assert module.lr_schedulers().best == logger.rows[9][1]["val/loss"]


class Living(Callback):
    """Count the tensors that were made since the training began."""

    def __init__(self):
        self.in_training, self.after_validation = [], []

    def on_train_start(self, *args):
        gc.collect()
        gc.freeze()  # what was there before need not be looked through

    def on_train_end(self, *args):
        gc.unfreeze()

    def count(self):
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step % 30 == 0:
            self.in_training.append(self.count())

    def on_validation_end(self, trainer, module):
        self.after_validation.append(self.count())


@pytest.mark.parametrize("kind", ["loop", "MAML++"])
def test_memory_is_constant(kind):
    """300 iterations and 20 validations: as many tensors live after the last as after the second."""
    living = Living()
    module = LEARNERS[kind](iterations_per_step=3)
    data = sinusoids(iterations_per_epoch=15, meta_batch_size=2, eval_tasks=2, eval_batch_size=1)
    fitted(module, data, max_steps=300, callbacks=[living])
    assert (len(living.in_training), len(living.after_validation)) == (10, 20)
    assert living.in_training[1] > 10  # it does see some
    assert len(set(living.in_training[1:])) == 1
    assert len(set(living.after_validation[1:])) == 1
