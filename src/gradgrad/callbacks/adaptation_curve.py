"""How far adaptation gets with each inner step: a figure and a table, and for regression some tasks to look at."""

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gradgrad.adaptation.evaluation import diverged, statistics
from gradgrad.batches import AdaptedTasks, TaskBatch
from gradgrad.errors import UsageError, some
from gradgrad.tracking.recorder import tracked_logger

Stage = Literal["val", "test"]
PARTS: dict[Stage, str] = {"val": "validation", "test": "test"}
# Of Okabe and Ito (2008), told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, BLACK, GREY = "#0072B2", "#D55E00", "#009E73", "#000000", "0.55"
COLUMNS = 4  # of small multiples


class AdaptationCurve(Callback):
    """Show scores against inner steps.

    After the last validation of a fit, and after ``validate`` and ``test``, the run gets the figure
    ``adaptation_curve_<stage>.png`` and the table ``adaptation_curve_<stage>.csv``, with ``val`` or ``test`` for ``<stage>``; in
    regression with one feature also ``adapted_tasks_<stage>.png``, the first tasks before and after adaptation. It looks at
    modules that have ``curves`` as :class:`gradgrad.modules.MAML` does; with any other module it does nothing.

    Args:
        tasks: how many to draw; 4 fill a row. 0 draws none.

    Raises:
        UsageError: a negative number.
    """

    def __init__(self, tasks: int = 4) -> None:
        if tasks < 0:
            raise UsageError(f"AdaptationCurve got tasks {tasks}.\nexpected: how many tasks to draw, 0 for none")
        self.tasks = tasks
        self._first: dict[Stage, AdaptedTasks] = {}
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run.

        Args:
            trainer: unused.
            pl_module: unused.
            stage: unused.
        """
        self._first, self._validated = {}, False

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first tasks.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            outputs: of the step.
            batch: unused.
            batch_idx: number of the step.
            dataloader_idx: unused.
        """
        if batch_idx == 0 and self.tasks and isinstance(outputs, AdaptedTasks) and _can_be_drawn(outputs):
            self._first["test" if trainer.testing else "val"] = _first_of(outputs, self.tasks)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a validation by itself; one of many in a fit waits, because the next may replace it.

        Args:
            trainer: Lightning's.
            pl_module: with or without ``curves``.
        """
        self._validated = not trainer.sanity_checking
        if trainer.state.fn == "validate":
            self._show(trainer, pl_module, "val")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last validation of a fit.

        Args:
            trainer: Lightning's.
            pl_module: with or without ``curves``.
        """
        if self._validated:
            self._show(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a test.

        Args:
            trainer: Lightning's.
            pl_module: with or without ``curves``.
        """
        self._show(trainer, pl_module, "test")

    def _show(self, trainer: Trainer, pl_module: Any, stage: Stage) -> None:
        logger = tracked_logger(trainer.loggers)
        curves = getattr(pl_module, "curves", {}).get(stage)
        if curves is None or logger is None or not trainer.is_global_zero:
            return
        losses, accuracies = curves
        spoilt = diverged(losses, pl_module.diverged_above)
        title = _title(len(losses), PARTS[stage], spoilt, pl_module)
        scores = losses if accuracies.isnan().all() else accuracies
        logger.run.log_text(curve_table(losses, accuracies, spoilt), f"adaptation_curve_{stage}.csv")
        logger.run.log_figure(curve_figure(scores, pl_module.counted, title, scores is losses), f"adaptation_curve_{stage}.png")
        if first := self._first.get(stage):
            logger.run.log_figure(tasks_figure(first, pl_module.counted), f"adapted_tasks_{stage}.png")


def curve_table(losses: Tensor, accuracies: Tensor, spoilt: Tensor) -> str:
    """Write scores by steps.

    Args:
        losses: in units of the criterion, shape ``(n, S + 1)``.
        accuracies: shares, same shape; NaN in regression.
        spoilt: number of diverged tasks, shape ``(S + 1,)``.

    Returns:
        CSV with a row for each number of steps, every digit: ``steps``, mean ``loss``, ``loss_ci95`` (half the width of its 95 %
        interval), ``loss_median``, ``loss_p95``, ``diverged``; in classification ``accuracy`` and ``accuracy_ci95`` too.
    """
    import pandas as pd

    told = statistics(losses)
    columns = {"steps": torch.arange(losses.shape[1]), "loss": told.mean, "loss_ci95": told.ci95, "loss_median": told.median}
    columns |= {"loss_p95": told.p95, "diverged": spoilt}
    if not accuracies.isnan().all():
        share = statistics(accuracies)
        columns |= {"accuracy": share.mean, "accuracy_ci95": share.ci95}
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()}).to_csv(index=False, na_rep="nan")


def curve_figure(scores: Tensor, counted: int, title: str, is_loss: bool) -> Any:
    """Plot scores against inner steps.

    Args:
        scores: losses in units of the criterion, or accuracies as shares, shape ``(n, S + 1)``.
        counted: number of steps whose score is the headline.
        title: over the axes.
        is_loss: whether scores are losses; their axis is logarithmic if they span more than two decades.

    Returns:
        A matplotlib figure: mean with its 95 % interval over tasks, and median. Where the mean is not finite, the legend says so.
    """
    from matplotlib.figure import Figure  # half a second; without pyplot, so that no figure is kept alive
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    told = statistics(scores, torch.inf if is_loss else -torch.inf)
    steps = torch.arange(scores.shape[1]).numpy()
    finite = told.mean.isfinite()
    mean, median = (line.where(line.isfinite(), torch.nan) for line in (told.mean, told.median))
    low, high = mean - told.ci95, mean + told.ci95
    shown = torch.cat([line[line.isfinite()] for line in (mean, median)])
    logarithmic = is_loss and len(shown) > 0 and bool(shown.min() > 0) and bool(shown.max() > 100 * shown.min())

    figure = Figure(figsize=(5.6, 3.8), dpi=200, layout="constrained")
    axes = figure.subplots()
    lost = [str(step) for step in steps[~finite.numpy()]]
    absent = f", not finite after {some(lost, 3)} steps" if lost else ""
    axes.plot(steps, mean.numpy(), color=BLUE, linewidth=2, marker="o", markersize=4, label=f"mean{absent}", zorder=3)
    if logarithmic:  # an interval down to zero or below ends with the axis
        axes.set_yscale("log")
        axes.set_ylim(float(shown.min() / 2), float(torch.cat([shown, high[high.isfinite()]]).max() * 2))
        low = low.where(~(low <= 0), shown.min() / 1e3)
    if len(scores) > 1:
        axes.fill_between(steps, low.numpy(), high.numpy(), color=BLUE, alpha=0.25, linewidth=0, label="its 95 % interval")
    axes.plot(steps, median.numpy(), color=ORANGE, linewidth=1, linestyle="--", label="median")
    if finite[counted]:
        value, width = (float(of[counted]) * (1 if is_loss else 100) for of in (told.mean, told.ci95))
        headline = (f"{value:.3g} ± {width:.2g}" if is_loss else f"{value:.1f} ± {width:.1f} %") + f" after {_steps(counted)}"
        axes.scatter([counted], [float(mean[counted])], s=90, facecolors="none", edgecolors=BLACK, label=headline, zorder=4)
    if is_loss and not logarithmic:
        axes.set_ylim(bottom=min(0.0, float(shown.min()) if len(shown) else 0.0))
    if not is_loss:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="inner steps", ylabel="query loss" if is_loss else "query accuracy", xlim=(-0.3, len(steps) - 0.7))
    axes.set_title(title, fontsize=10)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def tasks_figure(first: AdaptedTasks, counted: int) -> Any:
    """Plot what adaptation did to a few regression tasks.

    Args:
        first: tasks with one feature and one target.
        counted: number of steps between before and after.

    Returns:
        A matplotlib figure, a panel per task: support points, the truth at the queries, prediction and loss before and after.
    """
    from matplotlib.figure import Figure

    count = len(first.losses)
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(2.5 * min(count, COLUMNS) + 0.4, 2.4 * rows + 0.8), dpi=200, layout="constrained")
    grid = figure.subplots(rows, min(count, COLUMNS), squeeze=False, sharex=True, sharey=True)
    seen = torch.cat([first.tasks.query_y.flatten(), first.tasks.support_y.flatten()])
    margin = (seen.max() - seen.min()) / 5 + 1e-6
    grid[0, 0].set_ylim(float(seen.min() - margin), float(seen.max() + margin))  # however far off a prediction is
    for panel in grid.flat[count:]:
        panel.set_visible(False)
    for task, axes in enumerate(grid.flat[:count]):
        x, order = first.tasks.query_x[task, :, 0].sort()
        truth, before, after = (part[task, order, 0].numpy() for part in (first.tasks.query_y, first.before, first.after))
        support_x, support_y = (part[task, :, 0].numpy() for part in first.tasks[:2])
        axes.plot(x.numpy(), truth, color=GREY, linewidth=3.5, alpha=0.6, label="true function")
        axes.plot(x.numpy(), before, color=GREEN, linewidth=1.6, linestyle=":", label="before adaptation")
        axes.plot(x.numpy(), after, color=BLUE, linewidth=1.5, label=f"after {_steps(counted)}")
        axes.plot(support_x, support_y, "^", color=ORANGE, markersize=5, label="support points", zorder=4)
        axes.set_title(f"task {task}: loss {first.losses[task, 0]:.2g} → {first.losses[task, counted]:.2g}", fontsize=9)
        axes.tick_params(labelsize=8, labelbottom=task + COLUMNS >= count)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("x", fontsize=10)
    figure.supylabel("y", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _title(tasks: int, part: str, spoilt: Tensor, module: Any) -> str:
    ends = ", ".join(f"{int(spoilt[step])} after {_steps(step)}" for step in sorted({module.counted, len(spoilt) - 1}))
    together = "normalized together (transductive)" if module.transductive else "not normalized together"
    head = f"{tasks} {part} {'task' if tasks == 1 else 'tasks'}, queries {together}"
    return f"{head}\ndiverged (loss above {module.diverged_above:g} and above that before): {ends}"


def _steps(number: int) -> str:
    return f"{number} step" if number == 1 else f"{number} steps"


def _can_be_drawn(told: AdaptedTasks) -> bool:
    return told.tasks.query_x.shape[2:] == (1,) and told.before.shape[2:] == (1,) and told.tasks.query_y.is_floating_point()


def _first_of(told: AdaptedTasks, count: int) -> AdaptedTasks:
    def first(tensor: Tensor) -> Tensor:
        return tensor[:count].detach().float().cpu().clone()  # a view would keep all tasks

    losses, accuracies, before, after = map(first, told[1:5])
    return AdaptedTasks(TaskBatch(*map(first, told.tasks)), losses, accuracies, before, after, params={})
