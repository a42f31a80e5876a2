"""A model behind `mlflow models serve`, asked over HTTP, by the questions of experiments/reliability."""

from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pytest

from conftest import QUICK, REGRESSOR, runs_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def serving(reliability):
    return reliability("serving")


def test_concurrent_answers_are_right_and_bad_requests_get_a_sentence(project, run_cli, client, serving, monkeypatch):
    assert run_cli("fit", "-c", REGRESSOR, *QUICK)[0] == 0
    (run,) = runs_of(client)
    (model,) = client.search_logged_models([run.info.experiment_id])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
    here = mlflow.pyfunc.load_model(model.model_uri)
    asked = serving.questions("gradient_norm_regressor")[:20]
    with serving.served(model.model_uri) as address, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda question: serving.ask(address, *question), asked))
        refused = {word: serving.ask(address, *question) for word, question in serving.refused("gradient_norm_regressor").items()}
    assert [answer.status_code for answer in answers] == [200] * 20
    for answer, (inputs, _) in zip(answers, asked, strict=True):
        assert answer.json()["predictions"] == here.predict({"x": np.array(inputs["x"])}).tolist()
    assert {word: answer.status_code for word, answer in refused.items()} == dict.fromkeys(refused, 400)
    assert refused["too many features"].json()["message"] == "x has shape [1, 11]; expected [-1, 10], where -1 is any number."
