"""The MAML module through a Trainer, against loops written out by hand."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import nn

from adaptation.by_hand import assert_same, loss_of, meta_loss, path, slopes
from gradgrad.adaptation import SGD, Implicit, Momentum, Reptile, Unrolled
from gradgrad.batches import TaskShape
from gradgrad.datamodules import SinusoidTasks
from gradgrad.datamodules.own_classes import ArrayTasks
from gradgrad.modules import MAML
from gradgrad.networks import MLP, ContextMLP, Conv4

REGRESSION = {"loss", "loss_ci95", "loss_median", "loss_p95", "diverged", "diverged_at_10", "transductive"} | {
    f"loss_at_{step:02d}" for step in range(11)
}
CLASSIFICATION = REGRESSION | {"accuracy", "accuracy_ci95"} | {f"accuracy_at_{step:02d}" for step in range(11)}
QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}


class Recorder(Logger):
    """Keep what is logged, with its steps, as it comes."""

    name, version = "recorder", "0"

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass

    def steps(self, name):
        return [step for step, metrics in self.rows if name in metrics]

    def last(self, stage):
        return [metrics for _, metrics in self.rows if f"{stage}/loss" in metrics][-1]


def sinusoids(**settings):
    tiny = {"shots": 5, "grid": 7, "meta_batch_size": 4, "eval_tasks": 6, "eval_batch_size": 4, "iterations_per_epoch": 9}
    return SinusoidTasks(**{**tiny, **settings})


def network(features, outputs):
    return drawn(MLP(features, outputs, [6]))


def drawn(net):
    """Begin from the same numbers in every precision."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net


def trainer(**settings):
    return Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": -1, "logger": False, **QUIET, **settings})


def fitted(module=None, data=None, ckpt_path=None, **settings):
    """Train from the same beginning, for 3 meta-iterations or as long as is said."""
    torch.manual_seed(0)
    module = MAML(network) if module is None else module
    run = trainer(**{"max_steps": 3, "num_sanity_val_steps": 0, **settings})
    run.fit(module, datamodule=sinusoids() if data is None else data, ckpt_path=ckpt_path)
    return module


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def built(module, shape=None):
    """Make its network without a trainer."""
    torch.manual_seed(0)
    module._build(TaskShape((1,), 1, classification=False) if shape is None else shape)
    return module


@pytest.fixture
def classes(tmp_path):
    """Twelve classes of six vectors each, around centres of their own."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 6)
    np.savez(tmp_path / "own.npz", x=2 * rng.normal(size=(12, 4))[y] + rng.normal(size=(72, 4)), y=y)
    sizes = {"ways": 3, "shots": 2, "queries": 2, "meta_batch_size": 4, "eval_tasks": 6, "iterations_per_epoch": 9}
    return lambda **settings: ArrayTasks(str(tmp_path / "own.npz"), (0.5, 0.25), **{**sizes, **settings})


def by_hand(module, tasks, steps):
    """Losses of each task after 0, ..., steps steps; and the share of right answers."""
    learner, meta = module.learner, module.learner.meta()
    slow = {name: p for name, p in module.network.named_parameters() if name not in learner.names}
    losses, accuracies = [], []
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        visited = path(learner, meta, support_x, support_y, steps)
        losses.append([loss_of(learner, fast, slow, query_x, query_y).item() for fast in visited])
        outputs = [torch.func.functional_call(module.network, {**fast, **slow}, (query_x,)) for fast in visited]
        accuracies.append([(output.argmax(-1) == query_y.squeeze(-1)).double().mean().item() for output in outputs])
    return np.array(losses), np.array(accuracies)


LEARNERS = {
    "MAML": lambda **more: MAML(network, SGD(0.1), **more),
    "loop": lambda **more: MAML(network, SGD(0.1), mode="loop", **more),
    "chunked": lambda **more: MAML(network, SGD(0.1), mode="chunked", chunk_size=3, **more),
    "MAML++": lambda **more: MAML(
        network, SGD(0.05, "tensor", per_step=True), 3, meta_gradient=Unrolled(multi_step_iterations=5), **more
    ),
    "Meta-SGD": lambda **more: MAML(network, SGD(0.05, "element"), 2, **more),
    "ANIL": lambda **more: MAML(network, Momentum(0.05), 2, "layers.2.*", **more),
    "CAVIA": lambda **more: MAML(lambda f, o: drawn(ContextMLP(f, o, 2, [6], "tanh")), SGD(0.5), 2, "context", **more),
    "Reptile": lambda **more: MAML(network, SGD(0.05), 3, meta_gradient=Reptile(), **more),
    "iMAML": lambda **more: MAML(network, SGD(0.05), 3, meta_gradient=Implicit(), **more),
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_scores_are_those_of_a_loop_by_hand(kind, float64):
    logger, data = Recorder(), sinusoids()
    settings = {"precision": "64-true", "logger": logger}
    module = fitted(LEARNERS[kind](eval_inner_steps=4, diverged_above=2.0), data, **settings)
    assert module.network.layers[0].weight.dtype == torch.float64
    trainer(**settings).test(module, datamodule=data, verbose=False)
    got = logger.last("test")
    assert {name.removeprefix("test/") for name in got} == REGRESSION
    tasks = data.tasks("test", 0, 6)
    if kind == "iMAML":  # its inner loop is drawn to where it began
        learner, meta = module.learner, module.learner.meta()
        visited = [path(learner, meta, x, y, 10, anchor=2.0) for x, y in zip(tasks.support_x, tasks.support_y, strict=True)]
        losses = np.array(
            [
                [loss_of(learner, fast, {}, x, y).item() for fast in fasts]
                for fasts, x, y in zip(visited, tasks.query_x, tasks.query_y, strict=True)
            ]
        )
    else:
        losses, _ = by_hand(module, tasks, 10)
    assert losses.std() > 0.1  # the tasks and the steps differ
    expected = {f"loss_at_{step:02d}": losses[:, step].mean() for step in range(11)} | {
        "loss": losses[:, 4].mean(),
        "loss_ci95": 1.96 * losses[:, 4].std(ddof=1) / 6**0.5,
        "loss_median": np.median(losses[:, 4]),
        "loss_p95": np.quantile(losses[:, 4], 0.95),
        "diverged": (losses[:, 4] > losses[:, 0].clip(2)).sum(),
        "diverged_at_10": (losses[:, 10] > losses[:, 0].clip(2)).sum(),
        "transductive": 0.0,
    }
    assert {f"test/{name}": value for name, value in expected.items()} == pytest.approx(got, rel=0, abs=1e-10)


@pytest.mark.parametrize("kind", LEARNERS)
def test_scores_do_not_depend_on_how_gradients_are_turned_off(kind):
    logger = Recorder()
    module = fitted(LEARNERS[kind](), max_steps=9, logger=logger)
    in_fit = logger.last("val")
    assert {name.removeprefix("val/") for name in in_fit} == REGRESSION
    for inference_mode in (True, False):
        run = trainer(logger=logger, inference_mode=inference_mode)
        run.validate(module, datamodule=sinusoids(), verbose=False)
        assert logger.last("val") == in_fit
        assert run.callback_metrics["val/loss"] == torch.tensor(in_fit["val/loss"])
        run.test(module, datamodule=sinusoids(), verbose=False)
    tests = [metrics for _, metrics in logger.rows if "test/loss" in metrics]
    assert tests[0] == tests[1]


@pytest.mark.parametrize("kind", LEARNERS)
def test_prediction_is_what_the_test_saw(kind):
    module, data = fitted(LEARNERS[kind]()), sinusoids(eval_batch_size=6)
    (told,) = trainer().predict(module, datamodule=data)
    logger = Recorder()
    trainer(logger=logger).test(module, datamodule=data, verbose=False)
    after = (told.after - told.tasks.query_y).square().mean()
    assert after.item() == pytest.approx(logger.last("test")["test/loss"], rel=1e-5)  # float32
    assert (told.after - told.before).abs().max() > 1e-3
    again = torch.func.vmap(lambda params, x: torch.func.functional_call(module.network, params, (x,)))
    torch.testing.assert_close(again(told.params, told.tasks.query_x), told.after, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(module(told.tasks.query_x[0]), told.before[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_classification(classes, mode, float64):
    logger, data = Recorder(), classes()
    module = MAML(network, SGD(0.3), 2, mode=mode)
    fitted(module, data, precision="64-true", logger=logger, max_steps=9)
    assert isinstance(module.criterion, nn.CrossEntropyLoss)
    assert logger.steps("train/accuracy") == list(range(1, 10))
    assert {name.removeprefix("val/") for name in logger.last("val")} == CLASSIFICATION
    trainer(logger=logger).test(module, datamodule=data, verbose=False)
    got = logger.last("test")
    losses, accuracies = by_hand(module, data.tasks("test", 0, 6), 10)
    assert len(set(accuracies.flatten())) > 2
    for step in range(11):
        assert got[f"test/loss_at_{step:02d}"] == pytest.approx(losses[:, step].mean(), rel=0, abs=1e-10)
        assert got[f"test/accuracy_at_{step:02d}"] == pytest.approx(accuracies[:, step].mean(), rel=0, abs=1e-10)
    assert got["test/accuracy"] == got["test/accuracy_at_02"]
    assert got["test/accuracy_ci95"] == pytest.approx(1.96 * accuracies[:, 2].std(ddof=1) / 6**0.5, rel=0, abs=1e-10)


def test_prediction_of_unknown_classes(classes, tmp_path):
    module = fitted(MAML(network, SGD(0.3), 2), classes())
    rows = np.random.default_rng(1).normal(size=(5, 4))
    np.savez(tmp_path / "task.npz", support_x=rows[:3], support_y=[0, 1, 2], query_x=rows[3:])
    (told,) = trainer().predict(module, datamodule=classes(task_file=str(tmp_path / "task.npz")))
    assert told.tasks.query_y.tolist() == [[-1, -1]]
    assert told.losses.isnan().all()
    assert told.accuracies.isnan().all()
    assert told.after.shape == (1, 2, 3)
    assert told.after.isfinite().all()


@pytest.mark.parametrize("kind", ["MAML", "loop", "chunked", "Meta-SGD", "CAVIA"])
def test_the_loss_is_a_function_that_can_be_differentiated(kind, float64):
    module = built(LEARNERS[kind]())
    tasks, meta = sinusoids().tasks("train", 0, 4), module.learner.meta()
    value = module.loss(tasks)
    assert value.item() == pytest.approx(meta_loss(module.learner, meta, tasks).item(), rel=0, abs=1e-10)
    step = module.meta_gradient(module.learner, meta, tasks, module.execution, 0)
    assert value.item() == pytest.approx(step.losses.mean().item(), rel=0, abs=1e-10)
    gradients = slopes(value, meta, create_graph=False)
    trained = {f"network.{name}" for name, p in module.network.named_parameters() if p.requires_grad}
    assert gradients.keys() == trained | {f"rates.{name}" for name in module.inner_optimizer.rates()}
    assert_same(gradients, step.gradients)
    assert all(g.abs().max() > 0 for g in gradients.values())


NORMALIZED = {
    "none": lambda features, outputs: MLP(features, outputs),
    "by the batch": lambda features, outputs: nn.Sequential(
        nn.Linear(features, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, outputs)
    ),
    "by the layer": lambda features, outputs: nn.Sequential(nn.Linear(features, 4), nn.LayerNorm(4), nn.Linear(4, outputs)),
}


@pytest.mark.parametrize(("kind", "transductive"), [("none", 0.0), ("by the batch", 1.0), ("by the layer", 0.0)])
def test_whether_queries_are_normalized_together_is_told(kind, transductive):
    logger = Recorder()
    module = fitted(MAML(NORMALIZED[kind]), logger=logger)
    run = trainer(logger=logger)
    run.validate(module, datamodule=sinusoids(), verbose=False)
    run.test(module, datamodule=sinusoids(), verbose=False)
    assert logger.last("val")["val/transductive"] == logger.last("test")["test/transductive"] == transductive
    # And it is true: one query's answer depends on the others, or does not.
    x = torch.linspace(-1, 1, 6)[:, None]
    alone, together = module(x[:3]), module(x)[:3]
    assert (not torch.allclose(alone, together, atol=1e-5)) == bool(transductive)


def test_conv4_is_transductive_only_with_its_batch_norm():
    for norm, transductive in (("batch", True), ("group", False), ("none", False)):
        module = built(MAML(lambda c, w, norm=norm: Conv4(c, w, 8, norm)), TaskShape((1, 28, 28), 5, classification=True))
        assert module.transductive is transductive


@pytest.mark.parametrize(("kind", "mode"), [("MAML", "vmap"), ("loop", "loop"), ("chunked", "chunked")])
def test_the_mode_is_what_was_said(kind, mode):
    assert built(LEARNERS[kind]()).execution.mode == mode


def test_convolutions_go_by_loop_on_a_cpu():
    shape = TaskShape((1, 28, 28), 5, classification=True)
    assert built(MAML(lambda c, w: Conv4(c, w, 8)), shape).execution.mode == "loop"
    assert built(MAML(lambda c, w: Conv4(c, w, 8), mode="vmap"), shape).execution.mode == "vmap"


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_checkpoint_brings_its_network_without_data(kind, tmp_path):
    module = LEARNERS[kind]()
    run = trainer(max_steps=3, num_sanity_val_steps=0)
    run.fit(module, datamodule=sinusoids())
    run.save_checkpoint(tmp_path / "x.ckpt")
    torch.manual_seed(1)
    same = LEARNERS[kind]()
    settings = {"network": same.make_network, "inner_optimizer": same.inner_optimizer, "inner_steps": same.inner_steps}
    loaded = MAML.load_from_checkpoint(tmp_path / "x.ckpt", adapt=same.adapt, meta_gradient=same.meta_gradient, **settings)
    assert loaded.task_shape == module.task_shape
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert torch.equal(weights(loaded), weights(module))
    tasks = sinusoids().tasks("test", 0, 3)
    torch.testing.assert_close(loaded.loss(tasks), module.loss(tasks), rtol=1e-6, atol=1e-6)  # by another mode
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["task_shape"] == ((1,), 1, False)


def test_a_module_of_python_keeps_no_live_objects():
    assert dict(MAML(network, SGD(0.1), loss=nn.L1Loss()).hparams) == {}


def test_an_own_criterion():
    module = fitted(MAML(network, loss=nn.L1Loss()), max_steps=1)
    tasks = sinusoids().tasks("test", 0, 1)
    (told,) = trainer().predict(module, datamodule=sinusoids(eval_tasks=1, eval_batch_size=1))
    assert told.losses[0, 0].item() == pytest.approx((module(tasks.query_x[0]) - tasks.query_y[0]).abs().mean().item(), rel=1e-5)
