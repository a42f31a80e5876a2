"""Does the gradient-norm penalty help on small tables, and does it help more than L2?

Run by `python experiments/gradient_norm_regression/study.py --config experiments/gradient_norm_regression/study.yaml`.
`selection.py` measures one setting; here are the command line, the results file, the statistics and the figure.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import sem
from selection import Setting, measure, read

from gradgrad.errors import UsageError
from gradgrad.tracking import MLflowLogger

HERE = Path(__file__).parent
EXPERIMENT = "gradient_norm_regression"
COLUMNS = ["set", "regime", "arm", "split", "coefficient", "l2_coefficient", "rmse", "step_ratio", "recipe"]
SHORT = {
    "none": "none",
    "l2": "L2",
    "parameter_gradient": "parameter gradient",
    "parameter_gradient_micro": "micro-batched",
    "input_gradient": "input gradient",
    "sam": "SAM",
    "l2_parameter_gradient": "L2 + parameter gradient",
    "least_squares": "least squares",
    "random_forest": "random forest",
}


def main(
    settings: list[Setting],
    grids: dict[str, list[float]],
    splits: int,
    hidden: list[int],
    lr: float,
    workers: int = 2,
    epochs: int | None = None,
    sets: list[str] | None = None,
    output: Path = HERE / "results.csv",
    fresh: bool = False,
    track: bool = True,
) -> None:
    """Measure every setting that the results do not hold yet, then print the tables and draw the figure.

    Args:
        settings: what is trained on, and how long.
        grids: coefficients per arm; 0 (the arm none) is always a candidate too.
        splits: how many of the standard splits, from 0 on; at least 2.
        hidden: width of each hidden layer.
        lr: Adam's first step size.
        workers: processes; each takes a setting and one core.
        epochs: instead of every setting's own, for a quick look.
        sets: only these data sets.
        output: the results, a CSV file; the figure stands beside it.
        fresh: measure again what the results hold already.
        track: record the new results as MLflow runs, one per setting and arm.
    """
    chosen = [s for s in settings if sets is None or s.set in sets]
    for setting in chosen:
        setting.epochs = epochs or setting.epochs
    recipes = {(s.set, s.regime): fingerprint(s, grids, hidden, lr) for s in chosen}
    there = pd.read_csv(output) if output.exists() else pd.DataFrame(columns=COLUMNS)
    held = dict(list(there.groupby(["set", "regime"], sort=False)))
    known = {} if fresh else {key: rows for key, rows in held.items() if key in recipes}
    if strange := [" ".join(key) for key, rows in known.items() if (rows["recipe"] != recipes[key]).any()]:
        raise UsageError(
            f"{output} holds {', '.join(strange)} under another recipe (settings, grids, hidden or lr differ).\n"
            "write: --output <another file>.csv, or --fresh true to measure them again"
        )
    missing = [s for s in chosen if not set(range(splits)) <= set(known.get((s.set, s.regime), there[:0])["split"])]
    data = [read(setting, splits) for setting in missing]  # a missing folder shows before anything is trained
    # The longest first, so that no worker is left alone with it at the end.
    longest = sorted(zip(missing, data, strict=True), key=lambda job: -job[0].epochs * len(job[1][0][1]) / job[0].batch)
    jobs = [delayed(measure)(setting, rows, grids, hidden, lr) for setting, rows in longest]
    output.parent.mkdir(parents=True, exist_ok=True)
    for frame in Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        key = (frame["set"].iloc[0], frame["regime"].iloc[0])
        held[key] = frame.assign(recipe=recipes[key])[COLUMNS]
        order = [*((s.set, s.regime) for s in settings), *held]  # as in the config; what only the file knows comes last
        ordered = [held[key] for key in dict.fromkeys(order) if key in held]
        pd.concat(ordered).to_csv(output, index=False, float_format="%.7g")
        print(f"measured {' '.join(key)}", flush=True)
        if track:
            record(held[key])
    results = pd.read_csv(output).query("split < @splits")
    show(results)
    draw(results).savefig(output.with_name("rmse_by_arm.png"), dpi=130)


def fingerprint(setting: Setting, grids: dict[str, list[float]], hidden: list[int], lr: float) -> str:
    """Name what a result depends on."""
    return hashlib.sha256(json.dumps([asdict(setting), grids, hidden, lr], sort_keys=True).encode()).hexdigest()[:8]


def differences(results: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Subtract ``arm`` from every arm on the same split: one row per setting and arm, in the order of the results.

    Columns: ``rmse`` (mean), ``error`` (its standard error), ``difference`` (mean), ``difference_error``, ``percent`` of the mean
    RMSE of ``arm``, ``percent_error``, and ``wins``, ``ties``, ``losses`` in splits.
    """
    rows = []
    for (name, regime), of in results.groupby(["set", "regime"], sort=False):
        wide = of.pivot_table(index="split", columns="arm", values="rmse", sort=False)
        paired = wide.sub(wide[arm], axis=0)
        for other in wide:
            d, base = paired[other], wide[arm].mean()
            numbers = (wide[other].mean(), sem(wide[other]), d.mean(), sem(d), 100 * d.mean() / base, 100 * sem(d) / base)
            rows.append((name, regime, other, *numbers, int((d < 0).sum()), int((d == 0).sum()), int((d > 0).sum())))
    columns = ["set", "regime", "arm", "rmse", "error", "difference", "difference_error", "percent", "percent_error"]
    return pd.DataFrame(rows, columns=[*columns, "wins", "ties", "losses"])


def tables(results: pd.DataFrame) -> list[Table]:
    """Lay out the results; each table is Markdown, for the README."""
    to = {arm: differences(results, arm) for arm in ("none", "l2")}
    laid = [
        grid_of(to["none"], "test RMSE, mean ± standard error", lambda r: f"{r.rmse:.3f} ± {r.error:.3f}", list(SHORT)),
    ]
    for arm, rows in to.items():
        title = f"paired difference to {SHORT[arm]} in percent ± standard error (splits better/same/worse)"
        arms = [name for name in SHORT if name not in (arm, "least_squares", "random_forest")]
        write = "{0.percent:+.1f} ± {0.percent_error:.1f} ({0.wins}/{0.ties}/{0.losses})".format
        laid.append(grid_of(rows, title, write, arms))
    ratios = results.groupby(["set", "regime", "arm"], sort=False, as_index=False)["step_ratio"].first()
    trained = [arm for arm in SHORT if arm not in ("least_squares", "random_forest")]
    laid.append(grid_of(ratios, "time per step, in steps of none", lambda r: f"{r.step_ratio:.1f}", trained))
    return laid


def grid_of(rows: pd.DataFrame, title: str, write: Callable[..., str], arms: list[str]) -> Table:
    """Put one setting in each line and one arm in each column."""
    table = Table(title=title, box=MARKDOWN)
    for head in ("setting", *(SHORT[arm] for arm in arms)):
        table.add_column(head, justify="left" if head == "setting" else "right", no_wrap=True)
    for (name, regime), of in rows.groupby(["set", "regime"], sort=False):
        cells = {r.arm: write(r) for r in of.itertuples()}
        table.add_row(f"{name}, {regime}", *(cells.get(arm, "") for arm in arms))
    return table


def show(results: pd.DataFrame) -> None:
    """Print the tables."""
    for table in tables(results):
        Console(width=260).print(table)


def draw(results: pd.DataFrame) -> Figure:
    """Draw the paired difference to ``none`` in percent: one panel per setting, one line per arm."""
    rows = differences(results, "none")
    arms = [arm for arm in SHORT if arm not in ("none", "least_squares", "random_forest") and arm in set(rows["arm"])]
    regimes, names = list(rows["regime"].unique()), list(rows["set"].unique())
    figure = Figure(figsize=(2.1 * len(names) + 1.8, 2.3 * len(regimes) + 0.7), layout="constrained")
    panels = figure.subplots(len(regimes), len(names), sharey=True, squeeze=False)
    for (name, regime), of in rows.groupby(["set", "regime"], sort=False):
        axes = panels[regimes.index(regime), names.index(name)]
        of = of.set_index("arm").reindex(arms)
        colours = [
            "tab:green" if v < -2 * e else "tab:red" if v > 2 * e else "0.5"
            for v, e in zip(of.percent, of.percent_error, strict=True)
        ]
        axes.axvline(0, color="0.7", linewidth=1)
        axes.axvline(of.percent["l2"], color="tab:blue", linewidth=1, linestyle=":")
        axes.hlines(range(len(arms)), of.percent - of.percent_error, of.percent + of.percent_error, colours, linewidth=2)
        axes.scatter(of.percent, range(len(arms)), color=colours, zorder=3, s=25)
        axes.set_yticks(range(len(arms)), [SHORT[arm] for arm in arms])
        axes.set_title(f"{name}, {regime}", fontsize=10)
    panels[0, 0].invert_yaxis()
    figure.supxlabel(
        "paired difference of the test RMSE to no penalty, in percent (left is better; scales differ); dotted: L2\n"
        "bar: standard error over splits; green or red: more than two of them away from 0",
        fontsize=10,
    )
    return figure


def record(results: pd.DataFrame) -> None:
    """Keep one MLflow run per arm of a setting."""
    for row in differences(results, "none").itertuples():
        logger = MLflowLogger(EXPERIMENT, run_name=f"{row.set} {row.regime} {row.arm}")
        logger.log_hyperparams({"set": row.set, "regime": row.regime, "arm": row.arm, "recipe": results["recipe"].iloc[0]})
        logger.log_metrics({f"test/{key}": getattr(row, key) for key in ("rmse", "error", "difference", "difference_error")}, 0)
        logger.finalize()


if __name__ == "__main__":
    try:
        auto_cli(main, as_positional=False, default_config_files=[str(HERE / "study.yaml")])
    except UsageError as error:
        sys.exit(f"error: {error}")
