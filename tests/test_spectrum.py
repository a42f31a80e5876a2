"""The verb ``spectrum``, as a user types it."""

import math
import re

import pytest
import torch

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.datamodules import TabularRegression
from gradgrad.errors import UsageError
from gradgrad.modules import GradientNormRegressor
from gradgrad.spectrum import report_name
from strangers import dense_hessian

SHORT = ["--k=2", "--density_probes=2", "--density_steps=20", "--trace_probes=20", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def fitted_run(project, run_cli, client):
    assert run_cli("fit", "-c", REGRESSOR, *QUICK)[0] == 0
    (run,) = runs_of(client)
    return run.info.run_id


def test_a_report_into_the_run_of_the_checkpoint(fitted_run, run_cli, client):
    before = client.get_run(fitted_run)
    code, out, said = run_cli("spectrum", "-c", REGRESSOR, "--ckpt_path=best", *SHORT)
    assert code == 0, said
    run = client.get_run(fitted_run)
    assert len(runs_of(client)) == 1
    assert run.info.status == "FINISHED"
    assert run.info.end_time == before.info.end_time
    found = {name.removeprefix("spectrum/"): value for name, value in run.data.metrics.items() if name.startswith("spectrum/")}
    others = {name: value for name, value in run.data.metrics.items() if not name.startswith("spectrum/")}
    assert others == before.data.metrics
    assert run.data.tags["steps"] == before.data.tags["steps"] == "20"
    assert found["samples"] == 318
    assert run.data.tags["spectrum.probe_samples"] == "318"
    assert re.fullmatch(r"[0-9a-f]+", run.data.tags["spectrum.probe_digest"])
    assert found["converged"] == 1
    assert found["residual"] <= 1e-3
    assert {m.step for m in client.get_metric_history(fitted_run, "spectrum/lambda_max")} == {0}
    files = {file.path for file in client.list_artifacts(fitted_run, "spectrum")}
    assert files == {"spectrum/spectrum.csv", "spectrum/densities.npz", "spectrum/density.png"}
    assert "lambda_max" in run.data.tags["mlflow.note.content"].splitlines()[1]
    assert out.count("lambda_max") == 1
    assert "rmse" not in out  # the tables of validation and test
    assert f"run {fitted_run} of experiment gradient_norm_regressor" in out
    assert out.endswith("look at it: gradgrad ui\n")
    assert run.data.tags["command.spectrum"].startswith("gradgrad spectrum -c")

    # Against the dense Hessian of the checkpoint's weights on the whole training part.
    checkpoint = f"{run.info.artifact_uri.removeprefix('file://')}/{run.data.tags['checkpoint.best']}"
    assert found["step"] == torch.load(checkpoint, weights_only=True)["global_step"]
    module = GradientNormRegressor.load_from_checkpoint(checkpoint, weights_only=True).eval()
    data = TabularRegression("diabetes", split=0, batch_size=1000)
    data.prepare_data()
    data.setup("fit")
    (batch,) = data.train_dataloader()
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(module.loss(batch), list(module.network.parameters())).double())
    assert found["lambda_max"] == pytest.approx(eigenvalues[-1].item(), rel=1e-4)
    assert found["lambda_2"] == pytest.approx(eigenvalues[-2].item(), rel=1e-4)
    assert found["lambda_min"] == pytest.approx(eigenvalues[0].item(), rel=1e-4)
    assert found["lambda_min_2"] == pytest.approx(eigenvalues[1].item(), rel=1e-4)
    assert abs(found["trace"] - eigenvalues.sum().item()) <= 5 * found["trace_standard_error"]


def test_by_micro_batches_the_same(fitted_run, run_cli, client):
    values = []
    for size in (7, 318):
        assert run_cli("spectrum", "-c", REGRESSOR, "--ckpt_path=last", f"--micro_batch_size={size}", *SHORT)[0] == 0
        values.append(client.get_run(fitted_run).data.metrics["spectrum_last/lambda_max"])
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_untrained_weights_and_a_run_of_its_own(project, run_cli, client):
    code, _, said = run_cli("spectrum", "-c", REGRESSOR, *SHORT, "--operator=ggn", "--which=LA")
    assert code == 0, said
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["spectrum_ggn_untrained/lambda_max"] > 0
    assert run.data.metrics["spectrum_ggn_untrained/step"] == 0


def test_names_that_tell():
    assert report_name(None, "hessian", "best") == "spectrum"
    assert report_name(None, "ggn", "best") == "spectrum_ggn"
    assert report_name(None, "hessian", "last") == "spectrum_last"
    assert report_name(None, "preconditioned", "file") == "spectrum_preconditioned_file"
    assert report_name("mine", "ggn", "last") == "spectrum_mine"
    for name in ("a/b", "", ".."):
        with pytest.raises(
            UsageError, match=rf"^spectrum got name '{name}'; expected letters, digits, _ and -, such as second\.$"
        ):
            report_name(name, "hessian", "best")


def test_reports_beside_one_another_and_one_that_replaces(fitted_run, run_cli, client, caplog):
    def report(*arguments):
        caplog.clear()
        code, _, said = run_cli("spectrum", "-c", REGRESSOR, *SHORT, "--max_hvps=400", *arguments)
        assert code == 0, said
        files = {f.path: client.list_artifacts(fitted_run, f.path) for f in client.list_artifacts(fitted_run)}
        return caplog.messages, {name: {f.path.rpartition("/")[2] for f in inside} for name, inside in files.items()}

    replaced = "spectrum/ of an earlier report in this run is replaced; --name <another> keeps both"
    assert replaced not in report("--ckpt_path=best")[0]
    said, files = report("--ckpt_path=last", "--operator=ggn", "--which=LA")
    assert not any("is replaced" in message for message in said)
    everything = {"spectrum.csv", "densities.npz", "density.png"}
    assert files["spectrum"] == files["spectrum_ggn_last"] == everything
    said, files = report("--ckpt_path=best", "--density_probes=0", "--probe=32")
    assert replaced in said
    assert (files["spectrum"], files["spectrum_ggn_last"]) == ({"spectrum.csv"}, everything)
    said, files = report("--ckpt_path=best", "--density_probes=0", "--name=mine")
    assert not any("is replaced" in message for message in said)
    assert files["spectrum_mine"] == {"spectrum.csv"}
    run = client.get_run(fitted_run)
    for name, samples in {"spectrum": 32, "spectrum_ggn_last": 318, "spectrum_mine": 318}.items():
        assert run.data.tags[f"{name}.probe_samples"] == str(samples)
        assert run.data.metrics[f"{name}/samples"] == samples
        assert {m.step for m in client.get_metric_history(fitted_run, f"{name}/lambda_max")} == {0}
    assert run.data.tags["spectrum.probe_digest"] != run.data.tags["spectrum_mine.probe_digest"]
    assert run.data.tags["spectrum_mine.probe_digest"] == run.data.tags["spectrum_ggn_last.probe_digest"]
    assert run.data.metrics["spectrum_ggn_last/step"] == 20
    assert run.data.tags["steps"] == "20"


def test_what_cannot_be_measured_is_said(fitted_run, run_cli, client):
    before = client.get_run(fitted_run)
    for argument, sentence in {
        "--tol=-1": "got --tol -1.0; expected a relative residual between 0 and 1, such as 1e-2.",
        "--k=0": "got --k 0; expected 1 or more.",
        "--trace_probes=2": "got --trace_probes 2; expected 0 for none, or 4 or more.",
        "--name=a/b": "got --name 'a/b'; expected letters, digits, _ and -, such as second.",
    }.items():
        code, _, said = run_cli("spectrum", "-c", REGRESSOR, "--ckpt_path=best", *SHORT, argument)
        assert code == 2
        assert said == f"gradgrad spectrum: {sentence}"
        after = client.get_run(fitted_run)
        assert (after.data.tags, after.data.metrics) == (before.data.tags, before.data.metrics)
    code, _, said = run_cli("spectrum", "-c", REGRESSOR, *SHORT, "--k=0")
    assert code == 2
    assert len(runs_of(client)) == 1
    code, _, said = run_cli("spectrum", "-c", REGRESSOR, "--ckpt_path=best", "--kk=1")
    assert code == 2
    assert "kk" in said


def test_the_callback_from_the_command_line(project, run_cli, client):
    """A second one, beside the config's own."""
    settings = ["--trainer.callbacks+=gradgrad.callbacks.HessianSpectrum", "--trainer.callbacks.name=detail"]
    code, _, said = run_cli(
        "fit", "-c", REGRESSOR, *QUICK, *settings, "--trainer.callbacks.k=2", "--trainer.callbacks.density_every=3"
    )
    assert code == 0, said
    (run,) = runs_of(client)
    for name in ("hessian/lambda_max", "detail/lambda_2"):
        found = client.get_metric_history(run.info.run_id, name)
        assert [m.step for m in found] == [0, 1, 2, 3, 4, 7, 10, 16, 20]
        assert not any(math.isnan(m.value) for m in found)
    assert run.data.tags["hessian.probe_samples"] == "256"
    assert run.data.tags["hessian.probe_digest"] == run.data.tags["detail.probe_digest"]
    for folder, files in {"hessian": set(), "detail": {"densities.npz", "density.png"}}.items():
        there = {file.path.rpartition("/")[2] for file in client.list_artifacts(run.info.run_id, folder)}
        assert there == files | {"spectrum.csv", "eigenvalues.png", "shares.png"}
