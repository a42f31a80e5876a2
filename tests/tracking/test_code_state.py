"""Commits, patches and untracked files of repositories in every condition."""

import os
import subprocess
import time
from pathlib import Path

import git
import pytest

from gradgrad.tracking import code_state as module
from gradgrad.tracking.code_state import CodeState, code_state, untracked_text

SETTINGS = {"user.name": "me", "user.email": "me@here", "commit.gpgsign": "false", "protocol.file.allow": "always"}


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Git's settings for these tests, whatever the machine's are."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(SETTINGS)))
    for number, (key, value) in enumerate(SETTINGS.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)


@pytest.fixture
def repository(tmp_path):
    repository = git.Repo.init(tmp_path / "project")
    folder = tmp_path / "project"
    (folder / "a.py").write_text("one = 1\n" * 20)
    (folder / "data.bin").write_bytes(bytes(range(256)))
    repository.git.add("a.py", "data.bin")
    repository.git.commit("-m", "first")
    (folder / "deep").mkdir()
    return repository


def folder_of(repository):
    return Path(repository.working_dir)


def test_a_clean_repository(repository):
    folder = folder_of(repository)
    assert code_state(folder / "deep") == CodeState(folder, repository.head.commit.hexsha)


def test_the_patch_brings_all_tracked_changes_back(repository, tmp_path):
    folder = folder_of(repository)
    (folder / "a.py").write_text("one = 1\n" * 19 + "two = 2\r\nüber = 'nö newline at the end'")
    (folder / "data.bin").write_bytes(bytes(range(255, -1, -1)))
    (folder / "staged.py").write_text("new = True\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    repository.git.add("staged.py", "run.sh")
    for key, value in {"diff.noprefix": "true", "diff.context": "0", "color.ui": "always", "diff.external": "false"}.items():
        repository.git.config(key, value)
    state = code_state(folder)
    assert (state.dirty, state.kept, state.missing) == (True, "whole", ())
    (tmp_path / "diff.patch").write_text(state.patch, newline="")
    repository.git.worktree("add", "--detach", tmp_path / "again", state.commit)
    subprocess.run(["git", "apply", "--index", tmp_path / "diff.patch"], cwd=tmp_path / "again", check=True)
    for name in ("a.py", "data.bin", "staged.py", "run.sh"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert os.access(tmp_path / "again" / "run.sh", os.X_OK)
    assert code_state(tmp_path / "again").patch == state.patch


def test_untracked_files(repository):
    folder = folder_of(repository)
    (folder / ".gitignore").write_text("*.log\n")
    for name in ("deep/new one.py", "ünï.py", "noise.log"):
        (folder / name).touch()
    state = code_state(folder)
    assert (state.dirty, state.kept) == (True, "none")
    assert state.untracked == (".gitignore", "deep/new one.py", "ünï.py")
    assert untracked_text(state.untracked) == ".gitignore\ndeep/new one.py\nünï.py\n"
    assert untracked_text(("a",) * 2003).endswith("a\n... and 3 more\n")


def test_a_large_patch_cannot_be_applied_by_mistake(repository, monkeypatch):
    folder = folder_of(repository)
    monkeypatch.setattr(module, "LARGEST_PATCH", 300)
    (folder / "a.py").write_text("two = 2\n" * 100)
    state = code_state(folder)
    assert state.kept == "cut: the changes are larger than 300 bytes"
    assert state.patch.startswith(f"# {state.kept}; this is no patch and must not be applied\n# diff --git ")
    assert all(line.startswith("# ") for line in state.patch.splitlines())
    applied = subprocess.run(["git", "apply"], input=state.patch.encode(), cwd=folder, capture_output=True, check=False)
    assert applied.returncode != 0


def test_secrets_in_a_patch_are_scrubbed(repository, monkeypatch):
    folder = folder_of(repository)
    monkeypatch.setenv("SOME_API_KEY", "k-123456")
    (folder / "a.py").write_text("url = 'https://me:pa55@host/'\nshow('k-123456')\n")
    state = code_state(folder)
    assert state.kept == "scrubbed: secrets, or what looks like them, are *** in it"
    assert "+url = 'https://***@host/'\n+show('***')\n" in state.patch


def test_a_binary_file_with_a_secret_is_not_kept(repository, monkeypatch):
    folder = folder_of(repository)
    monkeypatch.setenv("SOME_API_KEY", "k-123456")
    (folder / "data.bin").write_bytes(b"\0\0k-123456\0")
    assert code_state(folder).kept == "cut: secrets stand in data.bin"
    repository.git.commit("-am", "leaked")
    (folder / "data.bin").unlink()  # the patch would hold what was removed
    state = code_state(folder)
    assert state.kept == "cut: secrets stand in data.bin"
    assert "GIT binary patch" not in state.patch


def test_changes_that_are_not_utf8(repository):
    folder = folder_of(repository)
    (folder / "a.py").write_bytes("name = 'Müller'\n".encode("latin-1"))
    state = code_state(folder)
    assert state.kept == "cut: the changes are not text in UTF-8"
    state.patch.encode()


def test_a_conflict_and_a_rename(repository):
    folder = folder_of(repository)
    main = repository.active_branch.name
    repository.git.checkout("-b", "other")
    (folder / "a.py").write_text("other = 1\n")
    repository.git.commit("-am", "other")
    repository.git.checkout(main)
    (folder / "a.py").write_text("mine = 1\n")
    repository.git.commit("-am", "mine")
    with pytest.raises(git.GitCommandError, match="CONFLICT"):
        repository.git.merge("other")
    repository.git.mv("data.bin", "moved.bin")
    state = code_state(folder)
    assert (state.dirty, state.kept, state.missing) == (True, "whole", ())
    assert "<<<<<<< HEAD" in state.patch
    assert "rename to moved.bin" in state.patch


def test_changes_inside_a_submodule_are_named(repository, tmp_path):
    other = git.Repo.init(tmp_path / "other")
    (tmp_path / "other" / "b.py").write_text("1\n")
    other.git.add("b.py")
    other.git.commit("-m", "first")
    folder = folder_of(repository)
    repository.git.submodule("add", tmp_path / "other", "sub")
    repository.git.commit("-m", "sub")
    assert code_state(folder).missing == ()
    (folder / "sub" / "b.py").write_text("2\n")
    state = code_state(folder)
    assert (state.dirty, state.patch, state.missing) == (True, "", ("changes inside the submodule sub",))


def test_no_repository_no_commit_no_git(tmp_path, monkeypatch):
    nothing = "code: no git repository with a commit"
    assert code_state(tmp_path) == CodeState(missing=(nothing,))
    git.Repo.init(tmp_path / "empty")
    unborn, last = code_state(tmp_path / "empty").missing
    assert unborn.startswith("code of empty: git rev-parse: fatal: ambiguous argument 'HEAD'")
    assert last == nothing
    monkeypatch.setenv("PATH", "")
    assert code_state(tmp_path).root is None


def test_the_second_folder_is_asked_where_the_first_has_no_commit(repository, tmp_path):
    (tmp_path / "plain").mkdir()
    assert code_state(tmp_path / "plain", folder_of(repository)).commit == repository.head.commit.hexsha


def test_a_broken_repository(repository):
    folder = folder_of(repository)
    (folder / ".git" / "index").write_bytes(b"nonsense")
    state = code_state(folder)
    assert state.commit == repository.head.commit.hexsha
    assert (state.dirty, state.kept) == (True, "cut: git did not tell the changes")
    assert any("index file" in line for line in state.missing)
    (folder / ".git" / "HEAD").write_text("nonsense")
    assert "code of project: git rev-parse: fatal: not a git repository" in code_state(folder).missing[0]


def test_git_that_takes_too_long(repository, tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\ncase "$*" in *files=all*) exec sleep 60;; esac\nPATH="$REAL" exec git "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("REAL", os.environ["PATH"])
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(module, "SECONDS", 0.5)
    folder = folder_of(repository)
    (folder / "a.py").write_text("two = 2\n")
    began = time.monotonic()
    state = code_state(folder)
    assert time.monotonic() - began < 10
    assert state.missing == ("untracked files: git status takes longer than 0.5 s",)
    assert state.kept == "whole"
