from pathlib import Path

import pytest

from gradgrad.written import Written


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.yaml").write_text("class_path: M\ninit_args:\n  lr: fast\n")
    Path("top.yaml").write_text("trainer:\n  max_epochs: 3\n  callbacks+:\n  - init_args:\n      monitor: x\nmodel: model.yaml\n")
    return Written.read(["-c", "top.yaml", "--data.split", "two"])


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (["trainer", "max_epochs"], ("top.yaml:2", "3")),
        (["trainer", "callbacks", "monitor"], ("top.yaml:5", "x")),
        (["model", "lr"], ("model.yaml:3", "fast")),
        (["model", "init_args", "lr"], ("model.yaml:3", "fast")),
        (["data", "split"], ("command line", "two")),
        (["nowhere"], ("top.yaml", "")),
    ],
)
def test_find(written, keys, place):
    assert written.find(keys) == place


def test_files_stay_known_when_the_parser_changes_folder(written, monkeypatch):
    monkeypatch.chdir("/")
    assert written.find(["trainer", "max_epochs"]) == ("top.yaml:2", "3")


def test_without_files_the_command_line_is_named():
    assert Written.read([]).find(["model"]) == ("command line", "")
