"""Run the rows of a study of curvature, each as `gradgrad fit`, and draw what `HessianSpectrum` measured.

    python experiments/spectrum_runs.py experiments/edge_of_stability/study.yaml

Writes results.csv and figure.png beside the study. Rows that have a finished run in the store are not run again.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run

from gradgrad.cli import main as command_line
from gradgrad.tracking.store import tracking_uri

LATE = 0.4  # from this share of the steps on, a plateau is judged
STEPS = os.environ.get("STUDY_STEPS")


def main(study: Path) -> None:
    """Run what is missing, then tell what came out."""
    plan = yaml.safe_load(study.read_text())
    runs = {row["name"]: found(plan, row) or fit(plan, row) for row in plan["rows"]}
    table = results(plan, runs)
    folder = Path(os.environ.get("STUDY_RESULTS", study.parent))
    table.to_csv(folder / "results.csv", index=False, float_format="%.5g")
    print(table.to_string(index=False, float_format="%.4g"))
    figure(plan, runs).savefig(folder / "figure.png", dpi=120)


def found(plan: dict[str, Any], row: dict[str, Any]) -> Run | None:
    """Look for a finished run of the row."""
    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(plan["experiment"])
    wanted = f"attributes.status = 'FINISHED' and attributes.run_name = '{row['name']}'"
    runs = client.search_runs([experiment.experiment_id], wanted) if experiment else []
    return runs[0] if runs else None


def fit(plan: dict[str, Any], row: dict[str, Any]) -> Run:
    """Train one row."""
    arguments = [
        *("fit", "-c", row["config"], *row.get("arguments", [])),
        *(f"--trainer.logger.experiment_name={plan['experiment']}", f"--trainer.logger.run_name={row['name']}"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *([f"--trainer.max_steps={STEPS}"] if STEPS else []),
    ]
    if code := command_line(arguments):
        raise SystemExit(code)
    run = found(plan, row)
    assert run is not None
    return run


def history(run: Run, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Read steps and values."""
    points = MlflowClient(tracking_uri()).get_metric_history(run.info.run_id, metric)
    points = sorted(points, key=lambda point: point.step)
    return np.array([point.step for point in points]), np.array([point.value for point in points])


def results(plan: dict[str, Any], runs: dict[str, Run]) -> pd.DataFrame:
    """Sum up each curve of the figure: where it begins, its peak, and its last 60 % of the steps."""
    lines = []
    for panel in plan["panels"]:
        for name in panel["rows"]:
            for metric in metrics(panel):
                steps, values = history(runs[name], metric)
                late = values[steps >= LATE * steps[-1]]
                ends = {"first": values[0], "peak": values.max(), "last": values[-1]}
                plateau = {"late_low": late.min(), "late_mean": late.mean(), "late_high": late.max()}
                line = {"row": name, "metric": metric, "steps": steps[-1], **ends, **plateau}
                if "threshold" in panel:
                    line["threshold"] = history(runs[name], panel["threshold"])[1][-1]
                lines.append(line)
    return pd.DataFrame(lines)


def metrics(panel: dict[str, Any]) -> dict[str, str]:
    """Name what a panel shows, with what the legend adds to the name of the run."""
    shown: dict[str, str] = panel.get("metrics") or {f"hessian/lambda_{i}": "" for i in range(1, panel["eigenvalues"] + 1)}
    return shown


def figure(plan: dict[str, Any], runs: dict[str, Run]) -> Figure:
    """Draw a panel per kind of run."""
    panels = plan["panels"]
    columns = len(panels) if len(panels) <= 3 else 2
    height = -(-len(panels) // columns)
    sheet = Figure(figsize=(5 * columns, 3.6 * height), layout="constrained")
    for axes, panel in zip(sheet.subplots(height, columns, squeeze=False).flat, panels, strict=False):
        (draw if "metrics" in panel else draw_eigenvalues)(axes, panel, runs)
        axes.set(title=panel["title"], ylabel=panel["label"], yscale=panel.get("scale", "linear"))
        axes.legend(fontsize="small", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return sheet


def draw(axes: Axes, panel: dict[str, Any], runs: dict[str, Run]) -> None:
    """Draw curves over steps, each threshold as a dashed line in the colour of its curve."""
    styles = ["-", ":"]
    for place, name in enumerate(panel["rows"]):
        for (metric, label), style in zip(metrics(panel).items(), styles, strict=False):
            steps, values = history(runs[name], metric)
            label = f"{name} {label}".strip()
            axes.plot(steps, values, style, color=f"C{place}", linewidth=1.2, label=label)
        if "threshold" in panel:
            (threshold,) = set(history(runs[name], panel["threshold"])[1])
            axes.axhline(threshold, color=f"C{place}", linestyle="--", linewidth=0.9)
    axes.set(xlabel="optimizer step", xscale=panel.get("x_scale", "linear"))


def draw_eigenvalues(axes: Axes, panel: dict[str, Any], runs: dict[str, Run]) -> None:
    """Draw eigenvalues in descending order, before the first step or after the last."""
    for place, name in enumerate(panel["rows"]):
        values = [history(runs[name], metric)[1][0 if panel["at"] == "first" else -1] for metric in metrics(panel)]
        axes.plot(range(1, len(values) + 1), values, "o-", color=f"C{place}", markersize=4, linewidth=0.8, label=name)
    axes.margins(y=0.25)  # room for the legend
    axes.set_xlabel("number of the eigenvalue")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
