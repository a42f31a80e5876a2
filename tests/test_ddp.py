"""Two processes on one machine: one run, one config, one set of checkpoints, one end."""

import pytest

from conftest import QUICK, REGRESSOR, runs_of

TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--test_after_fit=false"]


@pytest.mark.slow
def test_two_processes_are_one_run(project, client, start_cli):
    process = start_cli("fit", "-c", REGRESSOR, *QUICK, *TWO)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(10))
    folder = project / "mlruns" / "artifacts" / "gradient_norm_regressor" / run.info.run_id / "artifacts"
    files = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != "provenance")
    assert files == ["best.ckpt", "config.yaml", "eigenvalues.png", "last.ckpt", "previous.ckpt", "shares.png", "spectrum.csv"]


FAILING = """
from lightning.pytorch import Callback

class Failing(Callback):
    def __init__(self, rank: int):
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.rank and batch_idx == 3:
            raise ArithmeticError("boom")
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_the_run_with_its_own_traceback(project, client, start_cli, rank):
    (project / "failing.py").write_text(FAILING)
    appended = f"--trainer.callbacks+={{class_path: failing.Failing, init_args: {{rank: {rank}}}}}"
    process = start_cli("fit", "-c", REGRESSOR, *QUICK, *TWO, appended)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    (run,) = runs_of(client)
    assert run.info.status == "FAILED"
    assert run.data.tags["exception"] == ("ArithmeticError on rank 1" if rank else "ArithmeticError")
    folder = project / "mlruns" / "artifacts" / "gradient_norm_regressor" / run.info.run_id / "artifacts"
    (traceback,) = folder.glob("traceback*.txt")
    assert traceback.name == ("traceback-rank1.txt" if rank else "traceback.txt")
    assert "ArithmeticError: boom" in traceback.read_text()
    assert list((project / "mlruns" / "spool").glob("*.db")) == []
