"""A comparison as a figure: means with intervals over the single runs, and paired differences."""

from typing import Any

from gradgrad.tracking.baseline import shown
from gradgrad.tracking.comparison_tables import Comparison

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "0.65"  # of Okabe and Ito (2008), told apart with any kind of colour vision
LONGEST = 40  # characters of a label


def comparison_figure(comparison: Comparison) -> Any:
    """Plot groups from top to bottom.

    Args:
        comparison: to be shown.

    Returns:
        A matplotlib figure: left the means, with runs as small points below; right the differences from the baseline, if any. A
        group without interval has a hollow point.
    """
    from matplotlib.figure import Figure  # half a second; without pyplot, so that no figure is kept alive

    table, paired = comparison.table, comparison.baseline is not None
    labels = [_cut(shown(group, comparison.names)) for group in comparison.groups]
    width = (6.4 if paired else 4.0) + 0.08 * max(map(len, labels))
    figure = Figure(figsize=(width, 1.2 + 0.3 * len(table)), dpi=200, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True) if paired else [figure.subplots()]
    places = {group: place for place, group in enumerate(comparison.groups)}
    below = comparison.runs["group"].map(places) + 0.22
    panels[0].scatter(comparison.runs["value"], below, s=9, color=GREY, zorder=2, linewidths=0)
    _intervals(panels[0], table, ("mean", "low", "high"), BLUE)
    panels[0].set_xlabel(f"{_cut(comparison.metric)}\nmean, 95 % interval", parse_math=False)
    panels[0].set_yticks(list(places.values()), labels, parse_math=False)
    panels[0].set_ylim(len(table) - 0.5, -0.5)
    if paired:
        panels[1].axvline(0, color="black", linewidth=0.8, zorder=1)
        _intervals(panels[1], table, ("difference", "difference_low", "difference_high"), VERMILION)
        panels[1].set_xlabel(f"difference from\n{_cut(comparison.baseline or '')}", parse_math=False)
    for axes in panels:
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _intervals(axes: Any, table: Any, names: tuple[str, str, str], colour: str) -> None:
    for place, (middle, low, high) in enumerate(table[list(names)].itertuples(index=False)):
        known = low == low  # not NaN
        if known:
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
        axes.plot([middle], [place], "o", color=colour, markerfacecolor=colour if known else "white", markersize=5, zorder=4)


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
