"""Files that wait for MLflow: a full disk is no end of a training."""

import logging
import tempfile
from pathlib import Path

import pytest

from gradgrad.tracking.kept import inside, keep
from gradgrad.tracking.spool import Spool


def full(*places):
    def write(file):
        if any(file.is_relative_to(place) for place in places):
            raise OSError(28, "No space left on device")
        file.write_text("content")

    return write


@pytest.fixture
def spool(project, monkeypatch):
    (project / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(project / "temporary"))
    return Spool.of_run("one")


def test_a_file_waits_beside_its_spool(spool):
    file = keep(spool, "a.txt", full())
    assert (file.read_text(), file.parent.parent) == ("content", spool.folder)


def test_where_that_disk_is_full_it_waits_on_another(spool, project, caplog):
    file = keep(spool, "a.txt", full(spool.folder))
    assert (file.read_text(), file.parent.parent) == ("content", project / "temporary")
    assert list(spool.folder.iterdir()) == []
    assert caplog.records == []


def test_where_all_are_full_the_loss_is_told(spool, project, caplog):
    with caplog.at_level(logging.WARNING):
        assert keep(spool, "a.txt", full(project)) is None
    assert caplog.messages == ["a.txt of run one can be written nowhere and is not recorded: No space left on device"]


def test_a_name_under_the_artifacts():
    assert inside(Path("/a/artifacts"), "/a/artifacts/checkpoints/x.ckpt") == "checkpoints/x.ckpt"
    assert inside(Path("/a/artifacts"), "/b/x.ckpt") is None
    assert inside(None, "/b/x.ckpt") is None
