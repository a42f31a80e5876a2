from types import SimpleNamespace

import pytest

from gradgrad.tracking.names import experiment_name, run_name


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "experiment"),
        (["-c", "a.yaml", "--ckpt_path=best", "--trainer.enable_progress_bar=false", "--threads=1"], "experiment"),
        (["--model.network.hidden", "[7]", "--data.split=2"], "hidden=[7] split=2"),
        (["--model.api_key=abc"], "api_key=***"),
        (["--data.name=" + 300 * "x"], "name=" + 245 * "x"),
    ],
)
def test_a_run_is_named_after_what_was_overridden(arguments, name):
    assert run_name(arguments, "experiment") == name


def test_an_experiment_is_named_after_the_config_file():
    arguments = ["-c", "configs/own.yaml", "--config=other.yaml"]
    assert experiment_name(None, arguments) == "own"
    assert experiment_name([], []) == "gradgrad"
    assert experiment_name(SimpleNamespace(init_args={"experiment_name": None}), arguments) == "own"
    assert experiment_name(SimpleNamespace(init_args={"experiment_name": "mine"}), arguments) == "mine"
