"""The UI verb: a real server, on this machine only."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from gradgrad.tracking import MLflowLogger
from processes import free_port


def first_page(port):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            return ask(port, "/")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise TimeoutError


def ask(port, path, payload=None, **headers):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(payload).encode() if payload else None,
        headers={"Content-Type": "application/json", **headers},
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
    page = first_page(port)
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


@pytest.mark.slow
def test_whoever_was_let_in_gets_in_under_all_names_of_this_machine(project, start_cli):
    port = free_port()
    process = start_cli("ui", "--port", port, "--host", "0.0.0.0", "--allow_remote")
    first_page(port)
    for name in (socket.gethostname(), "127.0.0.1", "localhost"):
        sent = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}  # as a browser does
        assert b"Default" in ask(port, "/api/2.0/mlflow/experiments/search", {"max_results": 5}, **sent)
    for sent in ({"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(port, "/api/2.0/mlflow/experiments/search", {"max_results": 5}, **sent)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert "warning: no password; whoever reaches this port can read, change and delete all runs\n" in out


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
        (["--port", "abc"], "argument --port: 'abc' is no port"),
        (["--port", "99999"], "argument --port: '99999' is no port"),
        (["--prt", "5"], "unrecognized arguments: --prt 5"),
        (["--allow"], "unrecognized arguments: --allow"),
    ],
)
def test_a_mistake_is_a_sentence(run_cli, arguments, complaint):
    assert run_cli("ui", *arguments) == (
        2,
        "",
        f"gradgrad ui: {complaint}\nexpected: gradgrad ui [--port N] [--host NAME [--allow_remote]], N from 1 to 65535",
    )


def test_a_server_has_its_own_ui(project, run_cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:planted-secret@127.0.0.1:1/mlflow")
    code, out, _ = run_cli("ui")
    assert (code, out) == (0, "The runs are on a server that has its own UI: https://***@127.0.0.1:1/mlflow\n")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "somewhere"])
def test_others_are_let_in_only_on_demand(project, run_cli, host):
    assert run_cli("ui", "--host", host) == (
        2,
        "",
        f"gradgrad ui: others can reach --host {host}, and whoever does can read, change and delete all runs: "
        "there is no password.\n"
        "write:    gradgrad ui, and on the other machine: ssh -L 5000:127.0.0.1:5000 <this machine>\n"
        f"or, in a network that you trust: gradgrad ui --host {host} --allow_remote",
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.name.invalid"])
def test_an_address_of_another_machine(project, run_cli, host):
    code, _, said = run_cli("ui", "--host", host, "--allow_remote")
    assert said == f"gradgrad ui: --host {host} is no address of this machine.\nwrite:    gradgrad ui, which is for this machine"
    assert code == 2
