"""What the run that stands for a sweep tells in MLflow."""

import math
from typing import TYPE_CHECKING

from gradgrad.sweeps.figures import figures
from gradgrad.sweeps.short_names import short_value
from gradgrad.sweeps.standing import Standing, counts_line, failures, standing, with_error
from gradgrad.sweeps.trials_table import points_table, trials_table

if TYPE_CHECKING:
    from optuna.study import Study

    from gradgrad.tracking.run import TrackedRun

SHOWN = 5  # points in the description
LONGEST = 5000  # characters; what every MLflow server takes for the value of a tag


def publish(run: "TrackedRun", study: "Study", best_config: str | None) -> None:
    """Write the result of a sweep into its run; again and again, if need be.

    Args:
        run: which stands for the sweep.
        study: with the attributes that a sweep writes; it may still go on.
        best_config: a config file that trains the best point; its first line is a comment with the command.
    """
    now = standing(study)
    run.log_tags({"mlflow.note.content": describe_sweep(now, best_config)})
    run.log_text(trials_table(study).to_csv(index=False), "trials.csv")
    run.log_text(points_table(study).to_csv(index=False), "points.csv")
    if best_config is not None:
        run.log_text(best_config, "best.yaml")
    run.put("metrics", _metrics(now, study))
    for name, figure in figures(study).items():
        run.log_figure(figure, f"figures/{name}")


def _metrics(now: Standing, study: "Study") -> list[list[object]]:
    """At the step and time at which the last point ended, so that the same is the same point of the same curve."""
    ended = [trial.datetime_complete for trial in study.get_trials(deepcopy=False) if trial.datetime_complete is not None]
    values = {f"points/{status}": float(now.counts.get(status, 0)) for status in ("finished", "failed", "pruned")}
    if now.best:
        values[f"best/{now.metric}"] = now.best[0].mean
        if math.isfinite(now.best[0].error):
            values[f"best/{now.metric}_standard_error"] = now.best[0].error
    return [[name, value, int(max(ended).timestamp() * 1000), len(ended)] for name, value in values.items() if ended]


def describe_sweep(now: Standing, best_config: str | None) -> str:
    """Write the description of a sweep; the result comes first, because MLflow folds all but the first lines.

    Args:
        now: how the sweep stands.
        best_config: as :func:`publish` takes it.

    Returns:
        Markdown.
    """
    lines = ["**No point has finished.**", ""]
    if now.best:
        best = now.best[0]
        lines = [f"**{now.metric} {with_error(best.mean, best.error)}** at point {best.number} ({now.goal})", ""]
        lines += [f"- `{key}`: `{short_value(value, 200)}`" for key, value in best.settings.items()]
    lines += ["", f"{counts_line(now, None)}."]
    lines += [f"Point {point.number} failed: {_cell(point.reason[:300])}" for point in failures(now, 1)]
    command = (best_config or "").partition("\n")[0].removeprefix("#").strip()
    if command.startswith("gradgrad "):
        lines += ["", "```", command, "```"]
    table = ["", *_table(now)] if now.best else []
    text = "\n".join([*lines, *table])
    return text if len(text) <= LONGEST else "\n".join(lines)[:LONGEST]


def _table(now: Standing) -> list[str]:
    names = now.names
    head = ["point", *names.values(), now.metric, "seeds"]
    rows = [
        [
            str(point.number),
            *(short_value(point.settings[key], 60) if key in point.settings else "" for key in names),
            with_error(point.mean, point.error),
            str(point.n),
        ]
        for point in now.best[:SHOWN]
    ]
    rule = ["---:", *["---"] * len(names), "---:", "---:"]
    return ["| " + " | ".join(cells) + " |" for cells in (map(_cell, head), rule, *(map(_cell, row) for row in rows))]


def _cell(text: str) -> str:
    """A text that stays in its cell, and is no Markdown."""
    return " ".join("".join(f"\\{sign}" if sign in "|*_`<[\\" else sign for sign in text).split())
