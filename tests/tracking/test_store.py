"""Where runs are kept."""

import os
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from gradgrad.errors import UsageError
from gradgrad.tracking.store import (
    database_file,
    find_experiment,
    local_folder,
    on_local_disk,
    open_store,
    tracking_uri,
)


def test_the_default_is_under_the_current_folder(project):
    assert tracking_uri() == f"sqlite:///{project}/mlruns/mlflow.db"


def test_the_environment_is_read_when_asked(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"


@pytest.mark.parametrize("uri", ["./mlruns", "file:./mlruns"])
def test_a_file_store_is_refused(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        UsageError,
        match=rf"^MLFLOW_TRACKING_URI is {uri}, a folder; MLflow refuses those since 3\.13\.\n"
        r"write: MLFLOW_TRACKING_URI=sqlite:///\./mlruns/mlflow\.db, or unset it$",
    ):
        tracking_uri()


def test_a_file_address_is_spelt_out(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///a/b")
    with pytest.raises(UsageError, match=r"\nwrite: MLFLOW_TRACKING_URI=sqlite:////a/b/mlflow\.db, or unset it$"):
        tracking_uri()


def test_a_folder_that_no_address_can_name(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "why?").mkdir()
    monkeypatch.chdir(tmp_path / "why?")
    with pytest.raises(
        UsageError,
        match=r"^the current folder is .*why\?; a database address ends at a question mark\.\n"
        r"write: MLFLOW_TRACKING_URI=sqlite:///<another folder>/mlflow\.db, or go to another folder$",
    ):
        tracking_uri()


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named_soon(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"^the tracking store http://127\.0\.0\.1:9 cannot be opened: Connection refused\n"):
        open_store("http://127.0.0.1:9")
    assert time.monotonic() - start < 60  # MLflow's own patience is minutes
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_database_file(project):
    assert database_file("sqlite:///rel/x.db") == project / "rel" / "x.db"
    assert str(database_file("sqlite:////abs/x.db")) == "/abs/x.db"
    assert database_file("postgresql://me@host/db") is None


def test_local_folder(tmp_path):
    assert local_folder((tmp_path / "with space").as_uri()) == tmp_path / "with space"
    assert local_folder("mlflow-artifacts:/1/2") is None


def test_wal_is_on(project):
    open_store(tracking_uri())
    assert sqlite3.connect(project / "mlruns" / "mlflow.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(("kind", "local"), [("ext4", True), ("nfs4", False), ("fuse.sshfs", False), ("CIFS", False), ("", True)])
def test_network_disks_are_known(tmp_path, monkeypatch, kind, local):
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert on_local_disk(tmp_path / "mlflow.db") is local


def test_a_store_that_cannot_be_opened(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(
        UsageError,
        match=r"^the tracking store sqlite:///.*/file/mlflow\.db cannot be opened: .*\n"
        r"expected: a folder that can be written, or a server that answers\n"
        r"write:    MLFLOW_TRACKING_URI=<address>, or unset it for mlruns/ under the current folder$",
    ):
        open_store(f"sqlite:///{blocked}/mlflow.db")


def test_a_foreign_file_is_refused_and_kept(tmp_path):
    (tmp_path / "mlflow.db").write_text("precious notes, not a database" * 100)
    with pytest.raises(UsageError, match=r"^sqlite:///.* is damaged, or no SQLite file: .*file is not a database\n"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").read_text().startswith("precious notes")


def test_an_experiment_is_made_once(project, client):
    uri = tracking_uri()
    first = find_experiment(client, "one", uri)
    assert find_experiment(client, "one", uri) == first
    assert client.get_experiment(first).artifact_location == (project / "mlruns" / "artifacts" / "one").as_uri()


@pytest.mark.parametrize(("name", "folder"), [("a/b c.1", "a_b c.1"), ("../up", "_up"), ("größe", "größe"), ("..", "experiment")])
def test_the_folder_of_an_experiment_stays_below_artifacts(project, client, name, folder):
    location = client.get_experiment(find_experiment(client, name, tracking_uri())).artifact_location
    assert local_folder(location) == project / "mlruns" / "artifacts" / folder


def test_an_experiment_that_another_process_makes_at_the_same_time(project, client, monkeypatch):
    uri = tracking_uri()
    expected = find_experiment(client, "one", uri)
    answers = iter([None])
    real = client.get_experiment_by_name
    monkeypatch.setattr(
        client, "get_experiment_by_name", lambda name: next(answers) if name == "one" and _left(answers) else real(name)
    )
    assert find_experiment(client, "one", uri) == expected


def _left(answers):
    return answers.__length_hint__() > 0


def test_a_deleted_experiment_is_named(project, client):
    identifier = find_experiment(client, "one", tracking_uri())
    client.delete_experiment(identifier)
    with pytest.raises(
        UsageError,
        match=rf"^experiment 'one' was deleted; its name is taken until it is gone for good\.\n"
        rf"write: `mlflow experiments restore -x {identifier}`, or another name by --trainer\.logger\.experiment_name$",
    ):
        find_experiment(client, "one", tracking_uri())


@pytest.mark.slow
def test_four_processes_may_make_the_store_at_once(tmp_path):
    script = (
        "from gradgrad.tracking.store import *\n"
        f"uri = 'sqlite:///{tmp_path}/mlruns/mlflow.db'\n"
        "client = open_store(uri)\n"
        "print(client.create_run(find_experiment(client, 'one', uri)).info.run_id)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    runs = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert len(set(runs)) == 4
    assert sqlite3.connect(tmp_path / "mlruns" / "mlflow.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_damaged_file_is_named_so(project):
    (project / "mlruns" / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(
        UsageError,
        match=r"^sqlite:///.*mlflow\.db is damaged, or no SQLite file: .*\nwrite:    gradgrad doctor, which says more$",
    ):
        open_store(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
