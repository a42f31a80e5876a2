"""A run's curvature as figures: eigenvalues over steps, spectral density, where the sharpest direction lives."""

from typing import Any

from gradgrad.callbacks.spectrum_history import Density, SpectrumHistory

# Of Okabe and Ito (2008), told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLACK, GREY = "#000000", "0.55"
LAYERS = 12  # in the figure of shares; the rest is one more


def eigenvalues_figure(history: SpectrumHistory, title: str) -> Any:
    """Plot eigenvalues against steps, with the largest that the optimizer is stable for.

    Args:
        history: with ``lambda_max``, ``lambda_min``, ``lambda_<i>`` and ``threshold`` where they were measured.
        title: over the axes.

    Returns:
        A matplotlib figure; hollow points have not converged.
    """
    from matplotlib.figure import Figure  # half a second; without pyplot, so that no figure is kept alive
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    axes = figure.subplots()
    first = ("lambda_max", "lambda_min", "lambda_1", "lambda_min_1")
    numbered = [name for name in history.names("lambda_") if name not in first]
    names = [name for name in ("lambda_max", *numbered, "lambda_min") if name in history.names()]
    rejected = {row["step"] for row in history.rows if row.get("converged") == 0}
    for place, name in enumerate(names):
        steps, values = history.column(name)
        colour = COLOURS[min(place, len(COLOURS) - 1)] if name in ("lambda_max", "lambda_min") else GREY
        width, label = (1.8, _label(name)) if colour != GREY else (0.9, "further ones" if place == 1 else None)
        axes.plot(steps, values, color=colour, linewidth=width, marker="o", markersize=3, label=label, zorder=3)
        hollow = [(step, value) for step, value in zip(steps, values, strict=True) if step in rejected]
        if hollow:
            axes.plot(*zip(*hollow, strict=True), "o", color=colour, markerfacecolor="white", markersize=5, zorder=4)
    steps, limits = history.column("threshold")
    if steps:
        axes.plot(steps, limits, color=BLACK, linewidth=1.2, linestyle="--", label="largest stable curvature", zorder=2)
    shown = [value for name in names for value in history.column(name)[1]]
    if limits and shown and max(limits) > 5 * max(*shown, 1e-300):  # a line far above would flatten the curves
        axes.set_ylim(top=1.15 * max(shown), bottom=min(0.0, 1.15 * min(shown)))
        axes.plot([], [], " ", label=f"(at {limits[-1]:.3g}, above the axes)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="optimizer steps", ylabel="eigenvalue")
    _finish(axes, title)
    return figure


def density_figure(density: Density, title: str) -> Any:
    """Plot a spectral density on a logarithmic scale.

    Args:
        density: at one step.
        title: over the axes.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), dpi=200, layout="constrained")
    axes = figure.subplots()
    top = float(density.density.max())
    axes.semilogy(density.grid.numpy(), density.density.clamp(min=top * 1e-7).numpy(), color=COLOURS[0], linewidth=1.4)
    axes.set_ylim(top * 1e-6, top * 3)  # what lies deeper is the broadening's tail
    axes.axvline(0, color=GREY, linewidth=0.7)
    axes.set(xlabel="eigenvalue", ylabel="density")
    _finish(axes, title, legend=False)
    return figure


def shares_figure(history: SpectrumHistory, title: str) -> Any:
    """Plot the layers' shares of the top eigenvector against steps.

    Args:
        history: with ``share/<layer>``.
        title: over the axes.

    Returns:
        A matplotlib figure of stacked areas that add up to 1.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows = [row for row in history.rows if any(name.startswith("share/") for name in row)]
    totals = {name: sum(row.get(name, 0.0) for row in rows) for name in history.names("share/")}
    largest = sorted(totals, key=lambda name: -totals[name])[:LAYERS]
    shown = [name for name in totals if name in largest]
    steps = [row["step"] for row in rows]
    stacks = [[row.get(name, 0.0) for row in rows] for name in shown]
    labels = [name.removeprefix("share/") for name in shown]
    if len(shown) < len(totals):
        stacks.append([max(0.0, 1 - sum(stack[i] for stack in stacks)) for i in range(len(rows))])
        labels.append(f"{len(totals) - len(shown)} others")
    figure = Figure(figsize=(6.8, 3.8), dpi=200, layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"]([i / max(len(stacks) - 1, 1) for i in range(len(stacks))])
    axes.stackplot(steps, stacks, labels=labels, colors=colours, linewidth=0)
    axes.set(xlabel="optimizer steps", ylabel="share of the top eigenvector", ylim=(0, 1))
    if len(steps) > 1:
        axes.set_xlim(min(steps), max(steps))
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], frameon=False, fontsize=8, loc="outside right center")
    return figure


def _label(name: str) -> str:
    return {"lambda_max": "largest eigenvalue", "lambda_min": "smallest eigenvalue"}[name]


def _finish(axes: Any, title: str, legend: bool = True) -> None:
    axes.set_title(title, fontsize=10)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=9)
