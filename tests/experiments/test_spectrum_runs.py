"""The studies of curvature: what their results say lies in the bands of the theory, and short runs of their configs do too."""

import importlib.util

import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import nn

from conftest import QUICK, REPOSITORY, runs_of
from gradgrad.callbacks import HessianSpectrum
from gradgrad.datamodules import ChebyshevRegression, GaussianBlobs
from gradgrad.modules import HalfSquaredError, PlainLearner

EXPERIMENTS = REPOSITORY / "experiments"
STUDIES = sorted(path.parent.name for path in EXPERIMENTS.glob("*/study.yaml") if "panels" in path.read_text())


@pytest.fixture(scope="module")
def driver():
    spec = importlib.util.spec_from_file_location("spectrum_runs", EXPERIMENTS / "spectrum_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(study):
    return yaml.safe_load((EXPERIMENTS / study / "study.yaml").read_text())


def results(study):
    return pd.read_csv(EXPERIMENTS / study / "results.csv").set_index(["row", "metric"])


def history(client, run, metric):
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, metric)}


@pytest.fixture
def short(project, run_cli, client):
    """Run a config for some steps; gives the newest run of its experiment."""
    threads = torch.get_num_threads()

    def call(config, steps, *arguments):
        length = ["--trainer.max_epochs=-1", f"--trainer.max_steps={steps}", "--trainer.log_every_n_steps=10"]
        code, _, said = run_cli("fit", "-c", EXPERIMENTS / config, *QUICK, *length, *arguments)
        assert code == 0, said
        return runs_of(client, config.split("/")[1].removesuffix(".yaml"))[0]

    yield call
    torch.set_num_threads(threads)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_results_for_what_it_draws(driver, study):
    table, panels = results(study), plan(study)["panels"]
    drawn = [(name, metric) for panel in panels for name in panel["rows"] for metric in driver.metrics(panel)]
    assert list(table.index) == drawn
    rows = {row["name"]: row for row in plan(study)["rows"]}
    assert set(rows) == {name for name, _ in drawn}
    for row in rows.values():
        assert (REPOSITORY / row["config"]).is_file()
    assert (EXPERIMENTS / study / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_the_readme_says_what_the_results_say():
    table = results("edge_of_stability").drop(index="lr 0.05", level="row")
    said = (EXPERIMENTS / "edge_of_stability" / "README.md").read_text()
    for _, row in table.iterrows():
        cells = [f"{row[name] / row['threshold']:.3f}" for name in ("late_low", "late_mean", "late_high")]
        assert " | ".join(cells) in said


def test_plateaus_are_on_their_lines():
    """The last 60 % of the steps: on average within 1 % for descent on the polynomial, 2 % for the deep net and momentum."""
    table = results("edge_of_stability")
    ratio = table[["late_low", "late_mean", "late_high"]].div(table["threshold"], axis=0).droplevel("metric")
    assert ratio.loc["lr 0.4"].between(0.97, 1.03).all()
    for name in ("lr 0.4", "lr 0.3", "lr 0.2", "lr 0.15"):
        assert 0.985 < ratio.loc[name, "late_mean"] < 1.015
        assert ratio.loc[name].between(0.94, 1.07).all()
    assert table.loc[("lr 0.05", "hessian/lambda_max"), "peak"] < 40
    for name in ("deep linear, lr 1e-4", "deep linear, lr 1.5e-4", "heavy ball, lr 0.1", "heavy ball, lr 0.19"):
        assert ratio.loc[name].between(0.96, 1.04).all()
    for name in ("Adam, lr 0.001", "Adam, lr 0.003"):
        assert 0.96 < ratio.loc[name, "late_mean"] < 1.01
        assert ratio.loc[name].between(0.87, 1.03).all()


def test_the_sharpness_stops_at_its_line(client, short):
    """Short versions rise to 2/lr, and stay within 12 % above it; without the line they would go on to 18 and beyond."""
    run = short("edge_of_stability/chebyshev.yaml", 1500)
    sharpness = history(client, run, "hessian/lambda_max")
    assert sharpness[0] == pytest.approx(4.031, abs=0.002)
    assert all(0.92 * 5 < value < 1.15 * 5 for step, value in sharpness.items() if step >= 800)
    assert set(history(client, run, "hessian/threshold").values()) == {5.0}


def test_a_smaller_rate_leaves_it_room(client, short):
    run = short("edge_of_stability/chebyshev.yaml", 1500, "--model.init_args.optimizer.init_args.lr=0.2")
    assert 6.5 < history(client, run, "hessian/lambda_max")[1500] < 9.5  # on its way to 10


def test_so_does_that_of_a_deep_linear_network(client, short):
    sharpness = history(client, short("edge_of_stability/deep_linear.yaml", 800), "hessian/lambda_max")
    assert sharpness[0] == pytest.approx(2973, rel=0.001)
    late = [value for step, value in sharpness.items() if step >= 500]
    assert sum(late) / len(late) == pytest.approx(2 / 1.5e-4, rel=0.06)


def test_adam_stops_in_its_own_coordinates(client, short):
    run = short("edge_of_stability/adam.yaml", 1000)
    sharpness = history(client, run, "preconditioned/lambda_max")
    assert history(client, run, "preconditioned/threshold")[1000] == pytest.approx(38 / 0.003)
    assert all(0.85 < value * 0.003 / 38 < 1.04 for step, value in sharpness.items() if step >= 700)
    assert max(history(client, run, "hessian/lambda_max").values()) < 200  # the plain one knows nothing of that line


@pytest.mark.parametrize("classes", [3, 5, 8, 10])
def test_softmax_regression_has_classes_less_one_outliers(classes):
    """In closed form, and as measured: at zero weights H = (1/C)(I - 11'/C) (x) E[x x']."""
    x = GaussianBlobs(classes).batch.x.double()
    moments = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0) / classes
    found = results("outliers").xs(f"softmax, {classes} classes")["first"]
    # Printed to five digits; measured in float32 to a residual of 1e-3, whose square is the eigenvalue's error.
    assert found.iloc[: classes - 1].to_numpy() == pytest.approx([moments[0].item()] * (classes - 1), rel=1e-4)
    assert found.iloc[classes - 1] == pytest.approx(moments[1].item(), rel=1e-4)


@pytest.mark.parametrize("classes", [3, 5, 8, 10])
@pytest.mark.parametrize("kind", ["softmax", "network"])
def test_the_largest_gap_is_after_classes_less_one(kind, classes):
    found = results("outliers").xs(f"{kind}, {classes} classes")["last"].to_numpy()
    gaps = found[:-1] / found[1:]
    assert gaps.argmax() + 1 == classes - 1
    assert gaps.max() > 8


def test_outliers_of_a_config(client, short):
    classes = ["--model.init_args.network.init_args.out_features=5", "--data.init_args.classes=5"]
    run = short("outliers/network.yaml", 300, *classes)
    values = [history(client, run, f"hessian/lambda_{i}")[300] for i in range(1, 8)]
    assert max(range(6), key=lambda i: values[i] / values[i + 1]) + 1 == 4
    moments = GaussianBlobs(5).batch.x
    top = torch.linalg.eigvalsh(moments.T @ moments / len(moments))[-1].item() / 5
    equal = history(client, short("outliers/softmax.yaml", 1, *classes, "--trainer.log_every_n_steps=1"), "hessian/lambda_4")[0]
    assert equal == pytest.approx(top, rel=1e-4)


def test_gauss_newton_approaches_the_hessian():
    table = results("hessian_and_ggn")
    for seed in range(3):
        hessian, ggn = (table.loc[(f"seed {seed}", f"{name}/lambda_max")] for name in ("hessian", "ggn"))
        assert ggn["first"] / hessian["first"] < 0.85
        assert 0.9 < ggn["last"] / hessian["last"] < 1.1
        smallest = table.loc[(f"seed {seed}", "hessian/lambda_min")]
        assert smallest["first"] / hessian["first"] < -0.7
        assert smallest["last"] / hessian["last"] > -0.02


@pytest.mark.parametrize(
    ("shape", "loss", "data", "k"),
    [
        ((30, 3), nn.CrossEntropyLoss(), lambda: GaussianBlobs(3, samples=60), 3),
        ((1, 1), HalfSquaredError(), ChebyshevRegression, 2),
    ],
)
def test_they_are_equal_for_a_model_linear_in_its_parameters(float64, shape, loss, data, k):
    torch.manual_seed(0)
    spectra = [HessianSpectrum(k=k, operator=operator, tol=1e-8, max_hvps=200) for operator in ("hessian", "ggn")]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=-1, max_steps=5, callbacks=spectra, **quiet)
    learner = PlainLearner(nn.Linear(*shape), loss, lambda params: torch.optim.SGD(params, lr=0.01))
    trainer.fit(learner, datamodule=data())
    both = [[[row[f"lambda_{i}"] for i in range(1, k + 1)] for row in spectrum.history.rows] for spectrum in spectra]
    assert len(both[0]) > 3
    assert both[0] == [pytest.approx(values, rel=1e-10) for values in both[1]]


def test_the_penalty_flattens():
    table = results("curvature_of_ours")["last"]
    for metric, factor in (("lambda_max", 2.5), ("trace", 3)):
        assert table[("no penalty", f"hessian_train/{metric}")] > factor * table[("weight 0.3", f"hessian_train/{metric}")]


def test_a_study_runs(driver, project, client, monkeypatch, capsys):
    monkeypatch.setenv("STUDY_RESULTS", str(project))
    monkeypatch.setattr(driver, "STEPS", "2")
    study = project / "study.yaml"
    short = plan("outliers")
    short["rows"], keep = short["rows"][:1], short["rows"][0]["name"]
    short["rows"][0]["config"] = str(REPOSITORY / short["rows"][0]["config"])
    short["rows"][0]["arguments"] = ["--trainer.log_every_n_steps=1"]
    curve = {"title": "t", "label": "l", "rows": [keep], "metrics": {"hessian/lambda_max": ""}, "threshold": "hessian/threshold"}
    short["panels"] = [short["panels"][0] | {"rows": [keep]}, curve]
    study.write_text(yaml.safe_dump(short))
    for _ in range(2):  # the second time nothing is run
        driver.main(study)
        assert len(runs_of(client, "outliers")) == 1
    table = pd.read_csv(project / "results.csv")
    assert len(table) == 13
    assert table["threshold"].iloc[-1] == 2 / 0.05
    axes = driver.figure(short, {keep: runs_of(client, "outliers")[0]}).axes
    assert len(axes[0].lines) == 1
    assert [list(line.get_ydata()) for line in axes[1].lines][1] == [40, 40]
    assert keep in capsys.readouterr().out
