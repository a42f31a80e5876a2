"""Make the table and the figure of a study of meta-learners from its results.csv.

    python experiments/meta_report.py experiments/sinusoid/study.yaml

The table is printed, to be pasted into README.md, where a test compares the two; the figure is written beside it.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito: told apart by colour-blind readers


def number(value: float) -> str:
    """Write three digits, and what has no bound as a word."""
    return "diverges" if not np.isfinite(value) or value > 100 else f"{value:.3f}"


def table(results: pd.DataFrame, plan: dict) -> str:
    """Give one line per row of the study: mean over seeds ± the tasks' 95 % interval (standard deviation over seeds)."""
    score, steps, scale = plan.get("score", "loss"), plan["shown_steps"], plan.get("scale", 1)
    lines = ["| row | published | " + " | ".join(f"{k} steps" if k != 1 else "1 step" for k in steps) + " | seeds | diverged |"]
    lines.append("|---|---|" + "---:|" * (len(steps) + 2))
    for row in plan["rows"]:
        found = results[results["row"] == row["name"]]
        if found.empty:
            continue
        cells = []
        for k in steps:
            at = found[found["steps"] == k]
            mean, interval = scale * at[score].mean(skipna=False), scale * at[f"{score}_ci95"].mean(skipna=False)
            spread = f" ({scale * at[score].std():.3f})" if len(at) > 1 else ""
            if number(mean) == "diverges":
                cells.append(f"diverges, median {at[f'{score}_median'].median():.3f}")
            else:
                cells.append(f"{number(mean)} ± {interval:.3f}{spread}")
        spoilt = found[found["steps"] == max(steps)].sort_values("seed")["diverged"].astype(int)
        published = row.get("published", "-")
        lines.append(f"| {row['name']} | {published} | {' | '.join(cells)} | {len(spoilt)} | {', '.join(map(str, spoilt))} |")
    return "\n".join(lines)


def figure(results: pd.DataFrame, plan: dict) -> Figure:
    """Draw the score against inner steps: mean over seeds and tasks with the tasks' interval, or the dashed median."""
    score, scale = plan.get("score", "loss"), plan.get("scale", 1)
    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = drawn.subplots()
    for color, name in zip(COLORS, plan["drawn"], strict=False):
        found = results[results["row"] == name].groupby("steps")
        # One run that diverged makes the mean of all runs diverge.
        mean, interval = (
            scale * found[column].apply(lambda values: values.mean(skipna=False)) for column in (score, f"{score}_ci95")
        )
        finite = np.isfinite(mean) & (mean < 100)
        axes.plot(mean.index[finite], mean[finite], color=color, marker="o", markersize=3.5, label=name.replace("_", " "))
        axes.fill_between(
            mean.index[finite], (mean - interval)[finite], (mean + interval)[finite], color=color, alpha=0.15, linewidth=0
        )
        if not finite.all():
            median = found[f"{score}_median"].median()
            axes.plot(median.index, median, color=color, linestyle="--", linewidth=1, label=f"{name.replace('_', ' ')}, median")
    axes.set(xlabel="inner steps", ylabel=plan["label"], xticks=range(11))
    if score == "loss":
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return drawn


def main(study: Path) -> None:
    """Print the table and write the figure."""
    plan, results = yaml.safe_load(study.read_text()), pd.read_csv(study.with_name("results.csv"))
    print(table(results, plan))
    figure(results, plan).savefig(study.with_name("curves.png"), dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
