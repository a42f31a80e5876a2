import csv
import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from conftest import runs_of
from gradgrad.adaptation.evaluation import diverged, statistics
from gradgrad.batches import AdaptedTasks, TaskBatch
from gradgrad.callbacks import AdaptationCurve
from gradgrad.callbacks.adaptation_curve import BLUE, curve_figure, curve_table, tasks_figure
from gradgrad.errors import UsageError
from gradgrad.tracking import MLflowLogger

CONFIG = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: -1
  max_steps: 4
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: gradgrad.tracking.MLflowLogger}
  callbacks:
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {monitor: val/loss, filename: best, enable_version_counter: false}
  - class_path: gradgrad.callbacks.AdaptationCurve
  - class_path: gradgrad.callbacks.AdaptedModel
model:
  class_path: gradgrad.modules.MAML
  init_args:
    network: {class_path: gradgrad.networks.MLP, init_args: {hidden: [8]}}
    inner_steps: 2
    curve_steps: 3
data:
  class_path: gradgrad.datamodules.SinusoidTasks
  init_args: {shots: 4, meta_batch_size: 3, iterations_per_epoch: 2, eval_tasks: 6, eval_batch_size: 5}
"""


def losses(tasks=40, steps=4):
    return torch.rand(tasks, steps, generator=torch.Generator().manual_seed(0)) + torch.linspace(2, 0, steps)


def adapted(count=6, features=1, targets=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 9, features, generator=generator)
    y = torch.rand(count, 9, 1, generator=generator).to(targets)
    support = torch.rand(count, 3, features, generator=generator)
    scores = losses(count)
    return AdaptedTasks(TaskBatch(support, support[..., :1], x, y), scores, scores.log(), x[..., :1] + 1, x[..., :1] + 2, {})


def read(text):
    return pd.DataFrame(csv.DictReader(io.StringIO(text))).astype(float)  # to the last bit


class Run(list):
    def log_text(self, text, path):
        self.append(path)

    def log_figure(self, figure, path):
        self.append(path)


class Logger(MLflowLogger):
    def __init__(self):
        super().__init__()
        self.run = Run()


def stage(fn, logger=None, **flags):
    flags = {"is_global_zero": True, "sanity_checking": False, "testing": fn == "test", **flags}
    return SimpleNamespace(loggers=[logger] if logger else [], state=SimpleNamespace(fn=fn), **flags)


def module(**curves):
    told = {name: (scores, torch.full_like(scores, torch.nan)) for name, scores in curves.items()}
    return SimpleNamespace(curves=told, counted=1, diverged_above=10.0, transductive=False)


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def title(tasks, counted, transductive=False):
    logger = Logger()
    titles = []
    logger.run.log_figure = lambda figure, path: titles.append(figure.axes[0].get_title())
    learner = module(test=tasks)
    learner.counted, learner.transductive = counted, transductive
    AdaptationCurve().on_test_end(stage("test", logger), learner)
    return titles[0]


def test_the_table_has_every_digit():
    scores = losses()
    scores[0, 3] = torch.inf
    table = read(curve_table(scores, torch.full_like(scores, torch.nan), diverged(scores, 2.5)))
    told = statistics(scores)
    assert list(table) == ["steps", "loss", "loss_ci95", "loss_median", "loss_p95", "diverged"]
    assert table["steps"].tolist() == [0, 1, 2, 3]
    for name, values in {"loss": told.mean, "loss_ci95": told.ci95, "loss_median": told.median, "loss_p95": told.p95}.items():
        assert np.array_equal(table[name], values.numpy(), equal_nan=True), name
    assert table["diverged"].tolist() == [0, 0, 0, 1]


def test_the_table_of_a_classification_has_accuracies():
    scores, shares = losses(), losses() / 3
    table = read(curve_table(scores, shares, diverged(scores, 10)))
    assert list(table)[-2:] == ["accuracy", "accuracy_ci95"]
    assert table["accuracy"].tolist() == shares.double().mean(0).tolist()


def test_the_curve_shows_mean_interval_and_median():
    scores = losses()
    (axes,) = curve_figure(scores, 1, "600 tasks", True).axes
    told = statistics(scores)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("inner steps", "query loss", "600 tasks")
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    assert lines(axes)["mean"].get_ydata().tolist() == told.mean.tolist()
    assert lines(axes)["median"].get_ydata().tolist() == told.median.tolist()
    assert lines(axes)["median"].get_linewidth() < lines(axes)["mean"].get_linewidth()
    band, headline = axes.collections
    assert to_hex(band.get_facecolor()[0]) == BLUE.lower()
    corners = band.get_paths()[0].vertices
    for step in range(4):
        ends = corners[corners[:, 0] == step, 1]
        assert ends.min() == pytest.approx(float(told.mean[step] - told.ci95[step]))
        assert ends.max() == pytest.approx(float(told.mean[step] + told.ci95[step]))
    assert headline.get_offsets().tolist() == [[1, float(told.mean[1])]]
    assert headline.get_label() == f"{told.mean[1]:.3g} ± {told.ci95[1]:.2g} after 1 step"


def test_accuracies_are_drawn_in_percent():
    shares = torch.tensor([[0.2, 0.6], [0.4, 1.0]])
    (axes,) = curve_figure(shares, 1, "", False).axes
    assert axes.get_ylabel() == "query accuracy"
    assert axes.collections[1].get_label() == "80.0 ± 39.2 % after 1 step"
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(("last", "scale"), [(0.011, "linear"), (0.009, "log")])
def test_losses_over_two_decades_get_a_logarithmic_axis(last, scale):
    scores = torch.tensor([1.0, 0.1, last]).expand(3, 3)
    assert curve_figure(scores, 1, "", True).axes[0].get_yscale() == scale


def test_a_few_diverged_tasks_leave_the_median(tmp_path):
    scores = losses(40, 6)
    scores[0, 2:] = 1e8  # an interval down to below zero, on a logarithmic axis
    scores[1, 4] = torch.inf
    scores[1, 5] = torch.nan
    figure = curve_figure(scores, 4, "", True)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert np.isfinite(axes.get_ylim()).all()
    drawn = lines(axes)
    assert np.isnan(drawn["mean, not finite after 4, 5 steps"].get_ydata()).tolist() == [False] * 4 + [True] * 2
    assert drawn["median"].get_ydata().tolist() == statistics(scores).median.tolist()
    assert len(axes.collections) == 1  # no headline where there is no number
    figure.savefig(tmp_path / "drawn.png")


@pytest.mark.parametrize("scores", [torch.full((5, 3), torch.nan), torch.rand(1, 3), torch.rand(4, 1), torch.zeros(2, 2)])
def test_nothing_breaks_the_picture(scores, tmp_path):
    figure = curve_figure(scores, 0, "", True)
    figure.savefig(tmp_path / "drawn.png")
    assert np.isfinite(figure.axes[0].axis()).all()


def test_the_title_counts_tasks():
    scores = losses(600, 11)
    scores[:3, 10] = 50
    scores[0, 1] = torch.nan
    assert title(scores, 1) == (
        "600 test tasks, queries not normalized together\n"
        "diverged (loss above 10 and above that before): 1 after 1 step, 3 after 10 steps"
    )
    assert title(scores[:1], 10, transductive=True) == (
        "1 test task, queries normalized together (transductive)\n"
        "diverged (loss above 10 and above that before): 1 after 10 steps"
    )


def test_tasks_are_drawn_in_order_of_x(tmp_path):
    told = adapted()
    told.after[2] = torch.inf
    told.losses[2] = torch.nan
    figure = tasks_figure(told, 2)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 6
    for task, axes in enumerate(panels):
        drawn = lines(axes)
        order = told.tasks.query_x[task, :, 0].argsort()
        for label, values in {
            "true function": told.tasks.query_y,
            "before adaptation": told.before,
            "after 2 steps": told.after,
        }.items():
            assert drawn[label].get_xdata().tolist() == told.tasks.query_x[task, order, 0].tolist()
            assert drawn[label].get_ydata().tolist() == values[task, order, 0].tolist()
        assert drawn["support points"].get_xdata().tolist() == told.tasks.support_x[task, :, 0].tolist()
        assert drawn["support points"].get_ydata().tolist() == told.tasks.support_y[task, :, 0].tolist()
    assert panels[0].get_title() == f"task 0: loss {told.losses[0, 0]:.2g} → {told.losses[0, 2]:.2g}"
    assert panels[2].get_title() == "task 2: loss nan → nan"
    assert np.isfinite(panels[0].get_ylim()).all()
    figure.savefig(tmp_path / "drawn.png")


def test_a_fit_draws_its_last_validation_once():
    callback, logger, told = AdaptationCurve(tasks=2), Logger(), adapted()
    learner = module(val=told.losses)
    callback.setup(None, learner, "fit")
    callback.on_validation_end(stage("fit", logger, sanity_checking=True), learner)
    callback.on_train_end(stage("fit", logger), learner)
    assert logger.run == []  # a sanity check is no validation
    for _ in range(3):
        callback.on_validation_batch_end(stage("fit", logger), learner, told, None, 0)
        callback.on_validation_batch_end(stage("fit", logger), learner, adapted(1), None, 1)
        callback.on_validation_end(stage("fit", logger), learner)
    assert logger.run == []
    callback.on_train_end(stage("fit", logger), learner)
    assert logger.run == ["adaptation_curve_val.csv", "adaptation_curve_val.png", "adapted_tasks_val.png"]
    kept = callback._first["val"]
    assert kept.losses.shape == (2, 4)
    assert kept.tasks.query_x.untyped_storage().nbytes() == 2 * 9 * 4  # and not those of all tasks


def test_a_validation_by_itself_is_drawn():
    callback, logger, told = AdaptationCurve(), Logger(), adapted()
    callback.on_validation_end(stage("validate", logger), module(val=told.losses))
    assert logger.run == ["adaptation_curve_val.csv", "adaptation_curve_val.png"]


@pytest.mark.parametrize("told", [adapted(features=2), adapted(targets=torch.int64), {"loss": 1}, None])
def test_only_curves_can_be_drawn(told):
    callback, logger = AdaptationCurve(), Logger()
    callback.on_test_batch_end(stage("test", logger), None, told, None, 0)
    callback.on_test_end(stage("test", logger), module(test=losses()))
    assert logger.run == ["adaptation_curve_test.csv", "adaptation_curve_test.png"]


def test_no_tasks_are_drawn_where_none_are_asked_for():
    callback = AdaptationCurve(tasks=0)
    callback.on_test_batch_end(stage("test"), None, adapted(), None, 0)
    assert callback._first == {}


def test_it_does_nothing_without_our_logger_on_other_ranks_or_with_another_module():
    callback, logger = AdaptationCurve(), Logger()
    callback.on_test_end(stage("test"), module(test=losses()))
    callback.on_test_end(stage("test", logger, is_global_zero=False), module(test=losses()))
    callback.on_test_end(stage("test", logger), torch.nn.Identity())
    callback.on_test_end(stage("test", logger), module(val=losses()))
    assert logger.run == []


def test_a_negative_number_of_tasks():
    with pytest.raises(UsageError, match=r"^AdaptationCurve got tasks -1\.\nexpected: how many tasks to draw, 0 for none$"):
        AdaptationCurve(tasks=-1)


def test_the_verbs_draw_and_the_table_says_what_is_logged(project, client, run_cli):
    (project / "small.yaml").write_text(CONFIG)
    code, _, complaint = run_cli("fit", "-c", "small.yaml", "--test_after_fit=false")
    assert code == 0, complaint
    (run,) = runs_of(client, "small")
    names = {"adaptation_curve_{}.csv", "adaptation_curve_{}.png", "adapted_tasks_{}.png"}
    folder = project / "mlruns" / "artifacts" / "small" / run.info.run_id / "artifacts"
    assert {path.name for path in folder.glob("adapt*")} == {name.format("val") for name in names}
    for name in names:
        (folder / name.format("val")).unlink()
    for verb, stage_name in (("validate", "val"), ("test", "test")):
        code, _, complaint = run_cli(verb, "-c", "small.yaml", "--ckpt_path", "best")
        assert code == 0, complaint
        assert {path.name for path in folder.glob(f"adapt*_{stage_name}.*")} == {name.format(stage_name) for name in names}
        (run,) = runs_of(client, "small")
        metrics = run.data.metrics
        table = read((folder / f"adaptation_curve_{stage_name}.csv").read_text())
        assert table["loss"].tolist() == [metrics[f"{stage_name}/loss_at_{step:02d}"] for step in range(4)]
        assert table["diverged"][3] == metrics[f"{stage_name}/diverged_at_03"]
        for name in ("loss", "loss_ci95", "loss_median", "loss_p95", "diverged"):
            assert table[name][2] == metrics[f"{stage_name}/{name}"], name
