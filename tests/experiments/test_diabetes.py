"""The study runs, short."""

import runpy

import pytest

from conftest import REPOSITORY, runs_of


@pytest.mark.slow
def test_the_study(project, client, monkeypatch, capsys):
    monkeypatch.setenv("STUDY_SEEDS", "1")
    monkeypatch.setenv("STUDY_EPOCHS", "1")
    monkeypatch.setenv("STUDY_FIGURE", str(project / "figure.png"))
    study = REPOSITORY / "experiments" / "diabetes" / "study.py"
    runpy.run_path(str(study), run_name="__main__")
    assert [run.info.status for run in runs_of(client, "diabetes_study")] == ["FINISHED"] * 6
    out = capsys.readouterr().out
    assert "no penalty, last epoch" in out
    assert "ridge" in out
    assert (project / "figure.png").read_bytes()[:4] == b"\x89PNG"
    runpy.run_path(str(study), run_name="__main__")
    assert len(runs_of(client, "diabetes_study")) == 6  # what is there is not done again
