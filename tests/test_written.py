from pathlib import Path

import pytest

from gradgrad.errors import UsageError
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


@pytest.mark.parametrize("text", ["a: 1\nb:\n- {c: 1, c: 2}\n", "b:\n  c: 1\n  c: 2\n", "c: 1\n\nb: {}\nc: 2\n"])
def test_a_key_that_is_there_twice(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"x.yaml:\d: c is there twice, first in line \d.\nexpected: each key once$"):
        Written.read(["-c", str(tmp_path / "x.yaml")])
    (tmp_path / "x.yaml").write_text("a: {c: 1}\nb: [{c: 2}, {c: 3}]\n")
    Written.read(["-c", str(tmp_path / "x.yaml")])
