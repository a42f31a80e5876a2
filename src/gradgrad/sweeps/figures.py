"""Figures of a sweep, drawn by Optuna and made readable."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from typing import TYPE_CHECKING, Any

from gradgrad.sweeps.plotted import Plotted, plotted
from gradgrad.sweeps.points import objective_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.study import Study

MOST_KEYS = 8  # that fit beside each other
PAIRED_KEYS = 4  # there is one contour for each two
DPI = 150
log = logging.getLogger(__name__)


def figures(study: "Study") -> dict[str, "Figure"]:
    """Draw what can be drawn of a sweep.

    Args:
        study: with the attributes that a sweep writes; it may still go on.

    Returns:
        ``history.png``, ``parallel_coordinates.png``, ``importance.png``, ``slice.png``, ``contour.png``, without those for which
        there are too few points or keys.
    """
    shown = plotted(study)
    if len(shown.points) < 2:
        return {}
    lower = study.direction.name == "MINIMIZE"
    objective = f"{objective_name(study)} ({'lower' if lower else 'higher'} is better)"
    constant = len({point.mean for point in shown.points}) == 1
    drawings: dict[str, Callable[[Plotted, str], Any]] = {"history.png": _history}
    if shown.axes and not constant:
        drawings |= {"slice.png": _slice, "parallel_coordinates.png": _parallel_coordinates, "importance.png": _importance}
    if len(shown.axes) > 1 and not constant:
        drawings["contour.png"] = _contour
    drawn = {name: _drawn(draw, shown, objective) for name, draw in drawings.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _drawn(draw: Callable[[Plotted, str], Any], shown: Plotted, objective: str) -> "Figure | None":
    try:
        with _pyplot():
            figure: Figure | None = draw(shown, objective)
            if figure is not None:
                figure.draw_without_rendering()  # what fails, fails here, and the layout is settled
    except Exception as error:  # Optuna's figures raise many kinds, and a figure is not worth a sweep
        log.debug("%s cannot be drawn: %s", draw.__name__, error, exc_info=True)
        return None
    return figure


@contextmanager
def _pyplot() -> Iterator[None]:
    """Leave pyplot as it was: Optuna's figures set its style and stay open in it."""
    import matplotlib
    from matplotlib import pyplot
    from optuna.exceptions import ExperimentalWarning

    backend, before = pyplot.get_backend(), set(pyplot.get_fignums())
    style: Any = {"figure.dpi": DPI, "savefig.dpi": DPI, "font.size": 9, "figure.constrained_layout.use": True}
    with warnings.catch_warnings(), matplotlib.rc_context(style):
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # matplotlib's about layouts
        pyplot.switch_backend("agg")
        try:
            yield
        finally:
            for number in set(pyplot.get_fignums()) - before:
                pyplot.close(number)
            with suppress(ImportError):  # a window system that is not there
                pyplot.switch_backend(backend)


def _history(shown: Plotted, objective: str) -> "Figure":
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization.matplotlib import plot_optimization_history

    axes = plot_optimization_history(shown.study)
    figure = _titled(axes, "History", (7.0, 4.0))
    for line in axes.get_lines():
        line.set(drawstyle="steps-post", label="best so far")
    axes.collections[0].set_label("point, mean over its seeds")
    bars = [point for point in shown.points if point.n > 1]
    if bars:
        x, y, height = zip(*[(point.number, point.mean, point.error) for point in bars], strict=True)
        axes.errorbar(x, y, height, fmt="none", color="tab:blue", linewidth=1, label="standard error")
    if shown.ended:
        low = [0.02] * len(shown.ended)
        axes.plot(shown.ended, low, "x", color="0.4", transform=axes.get_xaxis_transform(), label="failed or pruned")
    axes.set(xlabel="point", ylabel=objective)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.get_legend().remove()  # type: ignore[union-attr]
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _slice(shown: Plotted, objective: str) -> "Figure":
    from matplotlib.ticker import MaxNLocator
    from numpy import ravel
    from optuna.visualization.matplotlib import plot_slice

    drawn: Any = plot_slice(shown.study, _most_important(shown, MOST_KEYS), target_name=objective)
    panels = ravel(drawn)
    figure = _titled(panels[0], "One key at a time", (2.0 + 2.2 * len(panels), 3.8))
    for panel in panels:
        _mark(panel.xaxis, shown)
    figure.axes[-1].set_ylabel("point")
    figure.axes[-1].yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _parallel_coordinates(shown: Plotted, objective: str) -> "Figure":
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    names = sorted(_most_important(shown, MOST_KEYS))  # Optuna's order
    axes = plot_parallel_coordinate(shown.study, names, target_name=objective)
    figure = _titled(axes, "Parallel coordinates", (2.6 + 1.6 * len(names), 4.6))
    axes.collections[0].set_cmap(_colours(shown))
    axes.set_xticks(range(len(names) + 1), [objective.partition(" (")[0], *map(_folded, names)], rotation=0)
    for panel, name in zip(figure.axes[2:], names, strict=True):  # after the objective's and the colour bar
        place = shown.axes[name]
        if place.ticks and (place.whole or not place.log):  # Optuna's first tick is for points without the key
            ticks = place.ticks if place.whole else {panel.get_yticks()[0]: "None"} | place.ticks
            panel.set_yticks(list(ticks), list(ticks.values()))
            panel.minorticks_off()
        panel.grid(visible=False)
        for label in panel.get_yticklabels():
            label.set_bbox({"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})
    return figure


def _importance(shown: Plotted, objective: str) -> "Figure":
    from optuna.visualization.matplotlib import plot_param_importances

    axes = plot_param_importances(shown.study, evaluator=_evaluator())
    axes.get_legend().remove()  # type: ignore[union-attr]
    axes.set(xlabel=f"share of what changes {objective.partition(' (')[0]}", ylabel="")
    return _titled(axes, f"Importance, from {len(shown.points)} points", (6.4, 1.6 + 0.4 * len(shown.axes)))


def _evaluator() -> Any:
    """Of 60 random points over four keys, Optuna's default gave 0.9 to a switch without any effect, this one 0.01."""
    from optuna.importance import MeanDecreaseImpurityImportanceEvaluator

    return MeanDecreaseImpurityImportanceEvaluator(seed=0)


def _contour(shown: Plotted, objective: str) -> "Figure":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.contour import ContourSet
    from numpy import atleast_2d
    from optuna.visualization.matplotlib import plot_contour

    drawn: Any = plot_contour(shown.study, _most_important(shown, PAIRED_KEYS), target_name=objective)
    panels = atleast_2d(drawn)
    n = len(panels)
    figure = _titled(panels[0, 0], "Two keys at a time", (6.0, 4.4) if n == 1 else (1.0 + 2.4 * n, 2.2 * n - 0.8))
    for panel in panels.flat:
        _mark(panel.xaxis, shown)
        _mark(panel.yaxis, shown)
    # Optuna's colour bar is right for its first panel only: each has levels of its own.
    means = [point.mean for point in shown.points]
    colours = ScalarMappable(Normalize(min(means), max(means)), _colours(shown))
    for part in [part for panel in panels.flat for part in panel.collections if isinstance(part, ContourSet) and part.filled]:
        part.set(norm=colours.norm, cmap=colours.cmap)
    figure.delaxes(figure.axes[-1])
    if n > 1:
        _lower_triangle(panels)
    figure.colorbar(colours, ax=figure.axes).set_label(objective, fontsize=9)
    return figure


def _most_important(shown: Plotted, most: int) -> list[str]:
    from optuna.importance import get_param_importances

    if len(shown.axes) <= most:
        return list(shown.axes)
    known = get_param_importances(shown.study, evaluator=_evaluator())
    return sorted(shown.axes, key=lambda name: -known.get(name, 0.0))[:most]


def _colours(shown: Plotted) -> str:
    """Of values: the best are dark, none is white."""
    return "viridis" if shown.study.direction.name == "MINIMIZE" else "viridis_r"


def _lower_triangle(panels: Any) -> None:
    """Take away what is there twice, and the diagonal."""
    n = len(panels)
    for row, column in product(range(n), repeat=2):
        if column >= row:
            panels[row, column].figure.delaxes(panels[row, column])
        else:
            panels[row, column].xaxis.set_tick_params(labelbottom=row == n - 1)
            panels[row, column].yaxis.set_tick_params(labelleft=column == 0)
            panels[row, column].xaxis.label.set_visible(row == n - 1)
            panels[row, column].yaxis.label.set_visible(column == 0)
    grid = panels[0, 0].get_gridspec()
    grid.set_height_ratios([1e-3] + [1.0] * (n - 1))
    grid.set_width_ratios([1.0] * (n - 1) + [1e-3])


def _titled(axes: Any, title: str, size: tuple[float, float]) -> "Figure":
    figure: Figure = axes.figure
    figure.set_size_inches(size)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=11)
    for panel in figure.axes:
        panel.set_title("")
        panel.set_title("", loc="left")
        panel.set_facecolor("white")
        panel.grid(color="0.9", linewidth=0.6)
        panel.xaxis.label.set_fontsize(9)
        panel.yaxis.label.set_fontsize(9)
    return figure


def _mark(axis: Any, shown: Plotted) -> None:
    """Write the values of a list where they stand."""
    name = axis.get_label_text()
    ticks = shown.axes[name].ticks if name in shown.axes else {}
    if ticks:
        long = axis.axis_name == "x" and sum(map(len, ticks.values())) > 20
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
        axis.set_ticks(list(ticks), list(ticks.values()), **turned)
        axis.set_ticks([], minor=True)
    axis.set_label_text(_folded(name))


def _folded(name: str) -> str:
    """In lines of about twelve characters."""
    return re.sub(r"(.{9,}?[._])(?=.{3})", r"\1\n", name)
