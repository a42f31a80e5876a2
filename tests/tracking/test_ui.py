"""The UI verb: a real server, on this machine only."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from gradgrad.tracking import MLflowLogger


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, path, payload=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(payload).encode() if payload else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


@pytest.mark.slow
def test_the_ui_serves_this_projects_runs_on_loopback(project, start_cli):
    logger = MLflowLogger("one")
    logger.log_metrics({"val/loss": 0.5}, 3)
    logger.run.log_text("hello", "hello.txt")
    logger.finalize()
    port = free_port()
    process = start_cli("ui", "--port", port)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            page = ask(port, "/")
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    assert b"<title>MLflow</title>" in page
    found = json.loads(ask(port, "/api/2.0/mlflow/runs/search", {"experiment_ids": ["1"]}))
    (run,) = found["runs"]
    assert run["info"]["run_id"] == logger.run_id
    assert ask(port, f"/get-artifact?path=hello.txt&run_id={logger.run_id}") == b"hello"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert (
        f"MLflow UI: http://127.0.0.1:{port} in some seconds   store: sqlite:///{project}/mlruns/mlflow.db   (Ctrl-C ends it)"
        in out
    )
    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(port, "/")


def test_a_port_that_is_taken(project, run_cli):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, said = run_cli("ui", "--port", str(port))
    assert said == f"gradgrad ui: port {port} is taken.\nwrite: gradgrad ui --port <another>, or leave --port out"
    assert code == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "abc"], "argument --port: invalid int value: 'abc'"),
        (["--prt", "5"], "unrecognized arguments: --prt 5"),
    ],
)
def test_a_mistake_is_a_sentence(run_cli, arguments, complaint):
    assert run_cli("ui", *arguments) == (
        2,
        "",
        f"gradgrad ui: {complaint}\nexpected: gradgrad ui [--port N], N from 1 to 65535",
    )


def test_a_server_has_its_own_ui(project, run_cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:planted-secret@127.0.0.1:1/mlflow")
    code, out, _ = run_cli("ui")
    assert (code, out) == (0, "The runs are on a server that has its own UI: https://***@127.0.0.1:1/mlflow\n")
