"""Serve two models by `mlflow models serve` and ask each 200 times at once, and what it should refuse.

    python experiments/reliability/serving.py    # about two minutes on 2 shared cores; exit code 1 where an answer is wrong

Fits run in a folder of their own. Every answer over HTTP is compared with that of the same model loaded in this process.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import requests

CONFIGS = Path(__file__).parents[2] / "configs"
REQUESTS = 200
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FITS = {
    "gradient_norm_regressor": ["--trainer.max_epochs=5"],
    "maml_sinusoid": [
        "--trainer.max_steps=100",
        "--model.init_args.compile=false",
        "--model.init_args.iterations_per_step=50",
        "--data.init_args.iterations_per_epoch=50",
    ],
}


def fit(name: str) -> str:
    """Fit, and give the model's address."""
    command = [sys.executable, "-m", "gradgrad", "fit", "-c", str(CONFIGS / f"{name}.yaml"), *QUIET, *FITS[name]]
    subprocess.run(command, check=True, capture_output=True)
    experiment = mlflow.MlflowClient().get_experiment_by_name(name)
    return f"models:/{mlflow.MlflowClient().search_logged_models([experiment.experiment_id])[0].model_id}"


@contextmanager
def served(model: str) -> Iterator[str]:
    """Start MLflow's own server, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow_ = Path(sys.executable).with_name("mlflow")
    command = [mlflow_, "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port)]
    environment = {**os.environ, "PATH": os.pathsep.join([str(mlflow_.parent), os.environ.get("PATH", "")])}  # for uvicorn
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    try:
        for _ in range(600):
            try:
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=1)
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def ask(address: str, inputs: object, params: dict | None = None) -> requests.Response:
    """Post; by json.dumps, which lets NaN through."""
    body = json.dumps({"inputs": inputs} | ({"params": params} if params else {}))
    return requests.post(address, data=body, headers={"Content-Type": "application/json"}, timeout=120)


def questions(name: str) -> list[tuple[dict, dict]]:
    """Inputs and params, each other than the one before."""
    draw = np.random.default_rng(0)
    if name == "maml_sinusoid":
        asked = []
        for i in range(REQUESTS):
            x, q, phase = draw.uniform(-5, 5, (10, 1)), draw.uniform(-5, 5, (1 + i % 20, 1)), draw.uniform(0, np.pi)
            params = {"inner_steps": i % 11, "inner_lr": 0.01 * (1 + i % 3)}
            asked.append(({"support_x": x.tolist(), "support_y": np.sin(x - phase).tolist(), "query_x": q.tolist()}, params))
        return asked
    return [({"x": draw.normal(50, 20, (1 + i % 20, 10)).tolist()}, {}) for i in range(REQUESTS)]


def refused(name: str) -> dict[str, tuple[object, dict]]:
    """What is wrong, by a word."""
    inputs, _ = questions(name)[1]
    key = "query_x" if name == "maml_sinusoid" else "x"
    rows = inputs[key]
    wrong = {
        "too many features": {**inputs, key: [[1.0] * 11]},
        "one dimension too few": {**inputs, key: [1.0, 2.0]},
        "ragged": {**inputs, key: [[1.0], [1.0, 2.0]]},
        "empty": {**inputs, key: []},
        "NaN": {**inputs, key: [[float("nan")] * len(rows[0])]},
        "infinite": {**inputs, key: [[float("inf")] * len(rows[0])]},
        "null": {**inputs, key: [[None] * len(rows[0])]},
        "text": {**inputs, key: [["a"] * len(rows[0])]},
        "missing input": {k: v for k, v in inputs.items() if k != key},
        "unknown input": {**inputs, "z": [1.0]},
    }
    return {word: (body, {}) for word, body in wrong.items()} | {"unknown param": (inputs, {"inner_step": 3})}


def main() -> int:
    """Print a table; the exit code says whether all is well."""
    wrong = 0
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlruns/mlflow.db"
        for name in FITS:
            model = fit(name)
            here = mlflow.pyfunc.load_model(model)
            asked = questions(name)
            with served(model) as address, ThreadPoolExecutor(REQUESTS) as pool:
                start = time.perf_counter()
                answers = list(pool.map(lambda question: ask(address, *question), asked))
                seconds = time.perf_counter() - start
                equal = 0
                for answer, (inputs, params) in zip(answers, asked, strict=True):
                    expected = here.predict({k: np.array(v) for k, v in inputs.items()}, params=params or None)
                    equal += answer.status_code == 200 and np.array_equal(answer.json()["predictions"], expected.tolist())
                statuses = {word: ask(address, *question) for word, question in refused(name).items()}
            print(f"{name}: {equal} of {REQUESTS} concurrent answers equal, {seconds:.1f} s")
            for word, answer in statuses.items():
                print(f"  {word}: {answer.status_code} {answer.json().get('message', '')[:120]}")
            wrong += REQUESTS - equal + sum(answer.status_code != 400 for answer in statuses.values())
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
