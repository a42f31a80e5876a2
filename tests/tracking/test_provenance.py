import sys

import git
import torch

from gradgrad.tracking.provenance import code_state, versions


def test_code_state(tmp_path):
    repository = git.Repo.init(tmp_path)
    (tmp_path / "a.py").write_text("1\n")
    repository.index.add(["a.py"])
    with repository.config_writer() as config:
        config.set_value("user", "name", "me").set_value("user", "email", "me@here")
    commit = repository.index.commit("first").hexsha
    (tmp_path / "deep").mkdir()
    assert code_state(tmp_path / "deep") == {"git.commit": commit, "git.dirty": "false"}
    (tmp_path / "deep" / "new.py").write_text("2\n")
    assert code_state(tmp_path)["git.dirty"] == "true"


def test_outside_a_repository_the_packages_own_is_asked(tmp_path):
    git.Repo.init(tmp_path)  # a repository without a commit says nothing
    state = code_state(tmp_path)
    assert state == {} or len(state["git.commit"]) == 40


def test_without_git_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "git", None)
    assert code_state(tmp_path) == {}


def test_versions():
    assert versions()["version.torch"] == torch.__version__
