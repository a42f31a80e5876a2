"""Two processes on one machine: one run, one config, one set of checkpoints."""

import pytest

from conftest import QUICK, REGRESSOR, runs_of


@pytest.mark.slow
def test_two_processes_are_one_run(project, client, start_cli):
    process = start_cli(
        *("fit", "-c", REGRESSOR, *QUICK, "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"),
        *("--test_after_fit=false",),
    )
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(10))
    folder = project / "mlruns" / "artifacts" / "gradient_norm_regressor" / run.info.run_id / "artifacts"
    files = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert files == ["best.ckpt", "config.yaml", "eigenvalues.png", "last.ckpt", "shares.png", "spectrum.csv"]
