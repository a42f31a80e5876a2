"""The verb ``spectrum``, as a user types it."""

import math

import pytest
import torch

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.datamodules import TabularRegression
from gradgrad.modules import GradientNormRegressor
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
    assert found["samples"] == 318
    assert found["converged"] == 1
    assert found["residual"] <= 1e-3
    assert {m.step for m in client.get_metric_history(fitted_run, "spectrum/lambda_max")} == {0}
    files = {file.path for file in client.list_artifacts(fitted_run, "spectrum")}
    assert files == {"spectrum/spectrum.csv", "spectrum/densities.npz", "spectrum/density.png"}
    assert "lambda_max" in out
    assert run.data.tags["command.spectrum"].startswith("gradgrad spectrum -c")

    # Against the dense Hessian of the checkpoint's weights on the whole training part.
    checkpoint = f"{run.info.artifact_uri.removeprefix('file://')}/{run.data.tags['checkpoint.best']}"
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
        values.append(client.get_run(fitted_run).data.metrics["spectrum/lambda_max"])
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_untrained_weights_and_a_run_of_its_own(project, run_cli, client):
    code, _, said = run_cli("spectrum", "-c", REGRESSOR, *SHORT, "--operator=ggn", "--which=LA")
    assert code == 0, said
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["spectrum/lambda_max"] > 0


def test_what_cannot_be_measured_is_said(fitted_run, run_cli, client):
    before = client.get_run(fitted_run)
    code, _, said = run_cli("spectrum", "-c", REGRESSOR, "--ckpt_path=best", *SHORT, "--tol=-1")
    assert code == 2
    assert "lanczos got tol=-1.0; expected a positive relative residual, such as 1e-3." in said
    assert client.get_run(fitted_run).data.metrics == before.data.metrics
    assert client.get_run(fitted_run).info.status == "FINISHED"
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
