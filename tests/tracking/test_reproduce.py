"""`gradgrad reproduce`: from a run's id to the same numbers, or to a sentence."""

import json
import os
import shlex
import subprocess
import sys
import time

import git
import pytest

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.tracking.environment import machine, packages

PATCH = """diff --git a/mine.py b/mine.py
--- a/mine.py
+++ b/mine.py
@@ -1 +1 @@
-SCALE = 1.0
+SCALE = 0.5
"""


@pytest.fixture
def repository(project):
    """The project as a repository with one commit."""
    repository = git.Repo.init(project)
    for key, value in {"name": "me", "email": "me@here"}.items():
        repository.config_writer().set_value("user", key, value).release()
    (project / "mine.py").write_text("SCALE = 1.0\n")
    (project / "deep").mkdir()
    (project / "deep" / "kept.txt").touch()
    (project / "mlruns" / ".gitignore").write_text("*\n")
    repository.git.add("mine.py", "deep")
    repository.git.commit("-m", "first")
    return repository


@pytest.fixture
def record(project, client):
    """Make a run as if it had been recorded; gives its id."""

    def make(commit="", patch="", kept="none", config=None, untracked="", requirements=None, **code):
        run = client.create_run(client.create_experiment("recorded"))
        run_id = run.info.run_id
        places = {"root": str(project), "folder": ".", "python_path": [".", "src", "/elsewhere"], **code}
        told = {
            "python": {"version": sys.version.split()[0]},
            "machine": machine(),
            "torch": {"threads": 1},
            "variables": {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "GRADGRAD_DATA": "sets", "PL_TOKEN": "***"},
            "code": places,
        }
        config = "seed_everything: 0\n" if config is None else config
        client.log_text(run_id, f"# gradgrad fit -c config.yaml\n{config}", "config.yaml")
        files = {
            "diff.patch": patch,
            "untracked.txt": untracked,
            "requirements.txt": packages(project) if requirements is None else requirements,
            "environment.json": json.dumps(told),
        }
        for name, text in files.items():
            client.log_text(run_id, text, f"provenance/{name}")
        tags = {"command.fit": "gradgrad fit -c own.yaml", **({"git.commit": commit, "git.patch": kept} if commit else {})}
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        client.set_terminated(run_id, "FINISHED")
        return run_id

    return make


def remarks(out):
    return [line[2:] for line in out.splitlines()[1:] if line.startswith("# ")]


def commands(out):
    return [line for line in out.splitlines() if not line.startswith("# ")]


def test_the_commands_are_printed_and_nothing_is_done(project, run_cli, repository, record, monkeypatch):
    monkeypatch.delenv("GRADGRAD_DATA", raising=False)
    monkeypatch.setenv("TORCH_SOMETHING", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    commit = repository.head.commit.hexsha
    run_id = record(commit, PATCH, "whole")
    code, out, _ = run_cli("reproduce", run_id)
    assert code == 0
    assert not (project / "mlruns" / "reproduced").exists()
    assert repository.git.worktree("list").count("\n") == 0
    to = project / "mlruns" / "reproduced" / run_id
    artifacts = next(project.rglob(f"{run_id}/artifacts"))
    assert out.splitlines()[0] == f"# run {run_id} (FINISHED), started by: gradgrad fit -c own.yaml"
    assert remarks(out) == ["modules outside of the repository are taken as they are today: /elsewhere"]
    *prepare, start = commands(out)
    assert prepare == [
        f"mkdir -p {to}",
        f"cp -R {artifacts}/config.yaml {artifacts}/provenance {to}",
        f"git -C {project} worktree add --force --detach {to}/code {commit}",
        f"git -C {to}/code apply --index --whitespace=nowarn {to}/provenance/diff.patch",
        f"mkdir -p {to}/code",
    ]
    words = shlex.split(start)
    assert words[:4] == ["(cd", f"{to}/code", "&&", "env"]
    assert words[-6:] == [sys.executable, "-m", "gradgrad", "fit", "-c", f"{to}/config.yaml)"]
    assert {
        "--unset=TORCH_SOMETHING",
        "CUBLAS_WORKSPACE_CONFIG=:16:8",
        f"GRADGRAD_DATA={project}/sets",
        "OMP_NUM_THREADS=1",
        f"MLFLOW_TRACKING_URI=sqlite:///{project}/mlruns/mlflow.db",
        f'MLFLOW_RUN_CONTEXT={{"reproduces": "{run_id}"}}',
        f"PYTHONPATH={to}/code:{to}/code/src:/elsewhere",
    } <= set(words)
    assert "PL_TOKEN=***" not in words


def test_the_printed_commands_bring_the_code_back(project, run_cli, repository, record, monkeypatch):
    (project / "old.py").write_text("old = 1\n")
    os.utime(project / "old.py", (0, 0))
    (project / "sets").mkdir()
    run_id = record(
        repository.head.commit.hexsha,
        PATCH,
        "whole",
        "data:\n  root: sets\n  name: nothing\nthreads: 2\n",
        "old.py\nnew.py\ngone.py\n",
        folder="deep",
    )
    (project / "deep" / "sets").symlink_to(project / "sets")
    (project / "new.py").write_text("new = 1\n")
    os.utime(project / "new.py", (time.time() + 9, time.time() + 9))
    monkeypatch.chdir(project / "deep")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
    code, out, _ = run_cli("reproduce", run_id, "--folder", "again here")
    assert code == 0
    assert remarks(out) == [
        "untracked files are copied, because none has changed since: old.py",
        "untracked files are not brought back, being gone, changed, many or large: new.py, gone.py",
        "modules outside of the repository are taken as they are today: /elsewhere",
        "the run had no seed: the numbers will differ",
    ]
    *prepare, start = commands(out)
    for line in prepare:
        subprocess.run(line, shell=True, check=True)
    to = project / "deep" / "again here"
    assert (to / "code" / "mine.py").read_text() == "SCALE = 0.5\n"
    assert (to / "code" / "old.py").read_text() == "old = 1\n"
    assert not (to / "code" / "new.py").exists()
    assert (to / "code" / "deep" / "sets").samefile(project / "sets")
    assert not (to / "code" / "deep" / "nothing").exists()
    assert f"cd '{to}/code/deep'" in start
    assert "OMP_NUM_THREADS" not in start
    assert git.Repo(to / "code").git.diff("HEAD", "--name-only") == "mine.py"
    code, _, said = run_cli("reproduce", run_id, "--folder", "again here")
    assert code == 2
    assert said == (
        "gradgrad reproduce: --folder again here is not empty.\nwrite: --folder <one that is not there yet>, or leave it out"
    )


def test_other_packages_mean_a_new_environment(run_cli, repository, record):
    lines = "absent==1.0\n-e ./sub  # mine==1\ntorch==2.0+cpu\n"
    code, out, _ = run_cli("reproduce", record(repository.head.commit.hexsha, requirements=lines))
    assert code == 0
    found = remarks(out)
    assert any("packages differ: -e ./sub then, absent==1.0 then, torch==2.0+cpu then, " in line for line in found)
    assert "torch==2.0+cpu: a build of its own; pip needs PIP_EXTRA_INDEX_URL, where it came from" in found
    *_, make, install, start = commands(out)
    minor = ".".join(sys.version.split(".")[:2])
    assert make.startswith(f"python{minor} -m venv ")
    assert "/code && " in install
    assert install.endswith("/venv/bin/python -m pip install --no-deps -r " + install.rpartition(" ")[2])
    assert "/venv/bin/python -m gradgrad fit" in start


def test_the_new_run_keeps_out_of_the_recorded_one(run_cli, repository, record):
    config = """seed_everything: 0
trainer:
  logger: {class_path: gradgrad.tracking.MLflowLogger, init_args: {run_id: abc}}
  callbacks:
  - {class_path: a.B, init_args: {dirpath: /mine/checkpoints}}
  - {class_path: a.B, init_args: {dirpath: relative}}
  - {class_path: a.B, init_args: {dirpath: null}}
"""
    _, out, _ = run_cli("reproduce", record(repository.head.commit.hexsha, config=config), "--folder", "there")
    words = shlex.split(commands(out)[-1])
    assert [word.rpartition("/")[2] for word in words[words.index("-c") + 1 :]] == [
        "config.yaml",
        "--trainer.logger.init_args.run_id=null",
        "checkpoints)",
    ]
    assert words[-1].startswith("--trainer.callbacks.0.init_args.dirpath=")


@pytest.mark.parametrize(
    ("recorded", "obstacle"),
    [
        ({"kept": "cut: the changes are larger than 1,000,000 bytes"}, "diff.patch was cut: the changes are larger than"),
        ({"kept": "scrubbed: secrets, or what looks like them, are *** in it"}, "diff.patch was scrubbed: secrets, or what"),
        ({"config": "seed_everything: 0\ndata: {api_key: '***'}\n"}, "config.yaml has *** for secrets: data.api_key"),
    ],
)
def test_what_cannot_be_brought_back_is_said_and_not_tried(run_cli, repository, record, recorded, obstacle):
    run_id = record(repository.head.commit.hexsha, **recorded)
    code, out, said = run_cli("reproduce", run_id, "--run")
    assert code == 2
    assert any(line.startswith(obstacle) for line in remarks(out))
    assert " apply " not in out
    first, second = said.splitlines()
    assert first.startswith(f"gradgrad reproduce: run {run_id} cannot be brought back by itself: {obstacle}")
    assert second == "write: the printed commands, with what is missing put in by hand"
    assert run_cli("reproduce", run_id)[0] == 0


def test_a_commit_that_is_not_here(run_cli, repository, record):
    run_id = record("0123456789" * 4)
    assert run_cli("reproduce", run_id) == (
        2,
        "",
        f"gradgrad reproduce: commit 012345678901 of run {run_id} is in no repository at hand.\n"
        "expected: to stand in a clone of the run's repository that has the commit\n"
        "write:    git fetch --all, or go to such a clone and set MLFLOW_TRACKING_URI to the run's store",
    )


def test_a_run_without_git(project, run_cli, record):
    code, out, _ = run_cli("reproduce", record(root=None, folder=str(project)), "--folder", "there")
    assert code == 0
    assert "no git commit was recorded: the code is that of today" in remarks(out)
    assert commands(out)[-1].startswith(f"(cd {project}/there/work && ")


def test_no_such_run_and_no_store(project, run_cli, client):
    store = f"sqlite:///{project}/mlruns/mlflow.db"
    sentence = f"gradgrad reproduce: run abc is not in {store}.\nwrite: an id that `gradgrad ui` shows"
    assert run_cli("reproduce", "abc") == (2, "", sentence)
    (project / "mlruns" / "mlflow.db").unlink()
    assert run_cli("reproduce", "abc")[2].endswith("does not exist).\nwrite: gradgrad fit first")
    assert run_cli("reproduce")[2].splitlines()[1] == "expected: gradgrad reproduce RUN_ID [--run] [--folder FOLDER]"


def test_a_run_that_recorded_too_little(run_cli, client):
    run_id = client.create_run(client.create_experiment("old"), tags={"command.fit": "gradgrad fit -c a.yaml"}).info.run_id
    client.log_text(run_id, "{}", "config.yaml")
    assert run_cli("reproduce", run_id)[2] == (
        f"gradgrad reproduce: run {run_id} cannot be reproduced: environment.json is not among its artifacts.\n"
        "expected: a run that `gradgrad fit` began, not one of an earlier version or of another logger\n"
        "write:    gradgrad fit -c <its config>; it was started by: gradgrad fit -c a.yaml"
    )


MINE = """from gradgrad.modules import GradientNormRegressor

SCALE = 1.0


class Mine(GradientNormRegressor):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch._replace(y=batch.y * SCALE), batch_idx)
"""


@pytest.mark.slow
def test_a_dirty_run_comes_back_bit_for_bit(project, repository, client, start_cli):
    (project / "mine.py").write_text(MINE)
    text = REGRESSOR.read_text().replace("gradgrad.modules.GradientNormRegressor", "mine.Mine")
    (project / "own.yaml").write_text(text.replace("config: base.yaml", f"config: {REGRESSOR.parent / 'base.yaml'}"))
    repository.git.add("mine.py", "own.yaml")
    repository.git.commit("-m", "mine")
    (project / "mine.py").write_text(MINE.replace("1.0", "0.5"))  # what no commit has

    first = start_cli("fit", "-c", "own.yaml", *QUICK, "--seed_everything=4", OMP_NUM_THREADS="1")
    out, _ = first.communicate(timeout=300)
    assert first.returncode == 0, out
    (project / "mine.py").write_text(MINE.replace("1.0", "0.7"))  # and went on
    (run,) = runs_of(client, "own")
    second = start_cli("reproduce", run.info.run_id, "--run", OMP_NUM_THREADS="2")
    out, _ = second.communicate(timeout=300)
    assert second.returncode == 0, out
    assert "identical, bit for bit: " in out.splitlines()[-1]
    new, old = runs_of(client, "own")
    assert old.info.run_id == run.info.run_id
    assert new.data.tags["reproduces"] == run.info.run_id
    assert new.data.tags["git.patch"] == "whole"
    assert new.data.metrics["test/rmse"] == old.data.metrics["test/rmse"]

    patch = project / "mlruns" / "artifacts" / "own" / run.info.run_id / "artifacts" / "provenance" / "diff.patch"
    patch.write_text(patch.read_text().replace("+SCALE = 0.5", "+SCALE = 0.6"))
    third = start_cli("reproduce", run.info.run_id, "--run")
    out, _ = third.communicate(timeout=300)
    assert third.returncode == 1
    assert "different: " in out.splitlines()[-1]
    assert "; the first is train/" in out.splitlines()[-1]

    patch.write_text("diff --git a/nothing b/nothing\n")
    fourth = start_cli("reproduce", run.info.run_id, "--run")
    out, _ = fourth.communicate(timeout=300)
    assert fourth.returncode == 1
    assert out.splitlines()[-1].startswith("stopped: exit code 128 of: git -C ")
