"""Checkpoints of runs whose artifacts are not a folder of this machine, or that moved."""

from types import SimpleNamespace

import pytest

from gradgrad.errors import UsageError
from gradgrad.tracking import MLflowLogger
from gradgrad.tracking.runs import find_run


@pytest.fixture
def run(project):
    logger = MLflowLogger("one")
    folder = logger.run.artifact_dir / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_text("weights")
    logger.log_config({"model": {"lr": 0.1}}, "model: {lr: 0.1}\n")
    callback = SimpleNamespace(
        monitor="val/loss", current_score=1.0, best_model_score=1.0, best_model_path=str(folder / "best.ckpt")
    )
    logger.after_save_checkpoint(callback)
    logger.finalize()
    return logger


def test_the_newest_run(run):
    found = find_run("one", "best")
    assert found.run_id == run.run_id
    assert found.checkpoint.read_text() == "weights"
    assert found.config == {"model": {"lr": 0.1}}


def test_a_run_without_checkpoint_is_passed_over(run, project):
    newer = MLflowLogger("one")
    newer.log_metrics({"a": 1.0}, 0)
    newer.finalize()
    assert find_run("one", "best").run_id == run.run_id


def test_artifacts_elsewhere_are_fetched(run, monkeypatch, tmp_path):
    from gradgrad.tracking import runs

    monkeypatch.setattr(runs, "local_folder", lambda uri: None)
    assert find_run("one", "best").checkpoint.read_text() == "weights"


def test_a_checkpoint_elsewhere_is_uploaded_at_the_end(project, tmp_path, client):
    logger = MLflowLogger("one")
    elsewhere = tmp_path / "scratch" / "best.ckpt"
    elsewhere.parent.mkdir()
    elsewhere.write_text("weights")
    callback = SimpleNamespace(monitor="val/loss", current_score=1.0, best_model_score=1.0, best_model_path=str(elsewhere))
    logger.after_save_checkpoint(callback)
    logger.flush()
    assert client.get_run(logger.run_id).data.tags["checkpoint.best"] == str(elsewhere)
    logger.finalize()
    assert client.get_run(logger.run_id).data.tags["checkpoint.best"] == "checkpoints/best.ckpt"
    elsewhere.unlink()
    assert find_run("one", "best").checkpoint.read_text() == "weights"


def test_an_experiment_that_is_misspelt(run):
    with pytest.raises(
        UsageError,
        match=r"^--ckpt_path best: there is no experiment 'onne' in sqlite:///.*mlflow\.db\.\n"
        r"expected: one of one, Default\nwrite:    --trainer\.logger\.experiment_name one, or --run_id <id>$",
    ):
        find_run("onne", "best")
