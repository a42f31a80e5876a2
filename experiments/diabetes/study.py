"""Does the gradient-norm penalty help on the diabetes data? Run by `python experiments/diabetes/study.py`.

For each of five seeds (seed k also draws split k) every weight is fitted by the command line's own `fit`. The weight is chosen
by the mean RMSE on the validation parts, once for the best checkpoint and once for the last one; the test RMSE at that weight
stands beside the one without penalty and beside scikit-learn's ridge regression, whose strength is chosen on the same
validation parts. Every fit is a tracked run, and one that is there already is not done again.
"""

import os
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import Ridge

from gradgrad.cli import main
from gradgrad.datamodules import TabularRegression
from gradgrad.modules import GradientNormRegressor
from gradgrad.tracking.store import local_folder, tracking_uri

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "gradient_norm_regressor.yaml"
EXPERIMENT = "diabetes_study"
SEEDS = range(int(os.environ.get("STUDY_SEEDS", "5")))
EPOCHS = int(os.environ.get("STUDY_EPOCHS", "100"))
WEIGHTS = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0]
STRENGTHS = np.logspace(-2, 4, 25)


def fit_all() -> None:
    """Fit every weight at every seed that has no finished run yet."""
    done = set(results())
    for seed in SEEDS:
        for weight in WEIGHTS:
            if (seed, weight) in done:
                continue
            arguments = [
                *("fit", "-c", str(CONFIG), f"--seed_everything={seed}", f"--data.split={seed}"),
                *(f"--model.penalties.0.init_args.weight={weight}", f"--trainer.max_epochs={EPOCHS}"),
                *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
                f"--trainer.logger.experiment_name={EXPERIMENT}",
            ]
            if code := main(arguments):
                raise SystemExit(code)


def results() -> dict[tuple[int, float], dict[str, float]]:
    """Read the finished runs back, by seed and weight; with ``last/rmse``, the test RMSE of the last checkpoint."""
    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = (
        client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=1000) if experiment else []
    )
    weight = "model.init_args.penalties.0.init_args.weight"
    return {
        (int(run.data.params["seed_everything"]), float(run.data.params[weight])): {
            **run.data.metrics,
            "last/rmse": last_rmse(run),
        }
        for run in runs
        if run.data.params["trainer.max_epochs"] == str(EPOCHS)
    }


def last_rmse(run: Run) -> float:
    """Test the last checkpoint, in the target's own unit."""
    artifacts = local_folder(run.info.artifact_uri)
    assert artifacts is not None
    model = GradientNormRegressor.load_from_checkpoint(artifacts / run.data.tags["checkpoint.last"], map_location="cpu").eval()
    data = TabularRegression("diabetes", split=int(run.data.params["data.init_args.split"]))
    data.setup("test")
    (batch,) = data.test_dataloader()
    with torch.no_grad():
        return (model(batch.x) - batch.y).square().mean().sqrt().item()


def ridge(seed: int) -> tuple[float, float]:
    """Fit scikit-learn's ridge on the same parts; gives its strength, chosen on the validation part, and its test RMSE."""
    data = TabularRegression("diabetes", split=seed)
    x, y, parts = data.table.x, data.table.y, data.parts
    train = parts["training"]
    mean, std = x[train].mean(0), x[train].std(0)

    def rmse(strength: float, part: str) -> float:
        model = Ridge(alpha=strength).fit((x[train] - mean) / std, y[train])
        error = model.predict((x[parts[part]] - mean) / std) - y[parts[part]]
        return float(np.sqrt(np.mean(error**2)))

    best = min(STRENGTHS, key=lambda strength: rmse(strength, "validation"))
    return float(best), rmse(best, "test")


def column(found: dict[tuple[int, float], dict[str, float]], weight: float, metric: str) -> np.ndarray:
    """Collect a metric over seeds."""
    return np.array([found[seed, weight][metric] for seed in SEEDS])


def show(found: dict[tuple[int, float], dict[str, float]]) -> None:
    """Print the tables and draw the figure."""
    last, best = "val/rmse", "best/rmse"
    chosen = {metric: min(WEIGHTS, key=lambda weight: column(found, weight, metric).mean()) for metric in (last, best)}
    table = Table(title=f"RMSE, mean ± standard error over {len(SEEDS)} seeds, {EPOCHS} epochs")
    columns = {"validation, last": last, "test, last": "last/rmse", "validation, best": best, "test, best": "test/rmse"}
    for head in ("weight", *(f"{name} epoch" for name in columns)):
        table.add_column(head, justify="right")
    for weight in WEIGHTS:
        table.add_row(f"{weight:g}", *(spread(column(found, weight, metric)) for metric in columns.values()))
    ridges = np.array([ridge(seed)[1] for seed in SEEDS])
    arms = {
        "no penalty, last epoch": column(found, 0.0, "last/rmse"),
        f"weight {chosen[last]:g}, last epoch": column(found, chosen[last], "last/rmse"),
        "no penalty, best epoch": column(found, 0.0, "test/rmse"),
        f"weight {chosen[best]:g}, best epoch": column(found, chosen[best], "test/rmse"),
        "ridge": ridges,
    }
    paired = Table(title="test RMSE; the difference is to `no penalty, last epoch` on the same split")
    for head in ("arm", *(f"seed {seed}" for seed in SEEDS), "mean", "paired difference"):
        paired.add_column(head, justify="right")
    for name, values in arms.items():
        difference = values - arms["no penalty, last epoch"]
        paired.add_row(
            name, *(f"{value:.2f}" for value in values), spread(values), spread(difference) if difference.any() else ""
        )
    Console(width=140).print(table, paired)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(WEIGHTS))
    for shift, (label, metric) in zip(
        (-0.12, -0.04, 0.04, 0.12), columns.items(), strict=True
    ):  # so that bars do not hide one another
        values = np.array([column(found, weight, metric) for weight in WEIGHTS])
        error = values.std(1, ddof=1) / np.sqrt(len(SEEDS)) if len(SEEDS) > 1 else None
        axes.errorbar(places + shift, values.mean(1), error, marker="o", capsize=3, label=f"{label} epoch")
    axes.axhline(ridges.mean(), color="0.4", linestyle="--", label="ridge, test")
    axes.set_xticks(places, [f"{weight:g}" for weight in WEIGHTS])
    axes.set(xlabel="weight of the squared gradient norm", ylabel="RMSE (disease progression)", title="diabetes, 442 patients")
    axes.legend(frameon=False)
    figure.savefig(Path(os.environ.get("STUDY_FIGURE", HERE / "rmse_against_weight.png")), dpi=130)


def spread(values: np.ndarray) -> str:
    """Write mean ± standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.2f} ± {error:.2f}"


if __name__ == "__main__":
    fit_all()
    show(results())
