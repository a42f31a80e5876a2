"""What a served model refuses, each in one sentence."""

import re
from types import SimpleNamespace

import mlflow.pyfunc
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from gradgrad.tracking.request_checks import LOADER, Refusal, check_names, checked, install

FLOAT, WHOLE = np.dtype("float64"), np.dtype("int64")
SHAPES = {"x": ((-1, 2), FLOAT), "n": ((-1,), WHOLE)}
GOOD = {"x": [[1, 2], [3, 4]], "n": [1.0, 2.0]}


def test_what_is_right_becomes_arrays_of_the_models_type():
    found = checked(GOOD, SHAPES)
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        "x": (FLOAT, [[1.0, 2.0], [3.0, 4.0]]),
        "n": (WHOLE, [1, 2]),
    }


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([[1.0, 2.0]], "the request is list; expected x, n by name."),
        ({"x": [[1, 2]]}, "the request lacks n; expected x, n."),
        ({**GOOD, "y": 1}, "unknown input 'y'; expected x, n."),
        ({**GOOD, "xx": 1}, "unknown input 'xx'; expected x, n; did you mean x?"),
        ({**GOOD, "x": [[1.0], [1.0, 2.0]]}, "x is no array of numbers; expected one of shape [-1, 2]."),
        ({**GOOD, "x": [["a", "b"]]}, "x has values of type <U1; expected numbers."),
        ({**GOOD, "x": [[None, 1.0]]}, "x has values of type object; expected numbers."),
        ({**GOOD, "x": {"a": 1}}, "x has values of type object; expected numbers."),
        ({**GOOD, "x": [1.0, 2.0]}, "x has shape [2]; expected [-1, 2], where -1 is any number."),
        ({**GOOD, "x": [[1.0, 2.0, 3.0]]}, "x has shape [1, 3]; expected [-1, 2], where -1 is any number."),
        ({**GOOD, "x": np.empty((0, 2))}, "x is empty; expected at least one row."),
        ({**GOOD, "x": [[1, 2], [3, float("nan")]]}, "x has a value that is missing or not finite in row 2."),
        ({**GOOD, "x": [[1, float("-inf")]]}, "x has a value that is missing or not finite in row 1."),
        ({**GOOD, "n": [1.0, 1.7]}, "n has 1.7; expected whole numbers."),
    ],
)
def test_what_is_wrong(data, sentence):
    with pytest.raises(Refusal, match=f"^{re.escape(sentence)}$") as raised:
        checked(data, SHAPES)
    assert raised.value.get_http_status_code() == 400


def test_a_name_where_none_is_known():
    with pytest.raises(Refusal, match=r"^unknown param 'a'; expected none\.$"):
        check_names("param", ["a"], {})


def test_mlflow_cannot_put_the_request_in_front():
    refusal = Refusal("one sentence")
    refusal.message = f"secret rows. {refusal.message}"  # as its server does
    assert (refusal.message, str(refusal)) == ("one sentence", "one sentence")


@pytest.fixture
def validate(monkeypatch):
    """MLflow's own check with ours before it, and what it was asked."""
    asked = []
    monkeypatch.setattr(mlflow.pyfunc, "_validate_prediction_input", lambda *given: asked.append(given) or given[:2])
    install()
    install()
    return SimpleNamespace(call=mlflow.pyfunc._validate_prediction_input, asked=asked)


PARAMS = ParamSchema([ParamSpec("inner_steps", "long", 1), ParamSpec("inner_lr", "double", 0.1)])
INPUTS = Schema([TensorSpec(FLOAT, (-1, 2), "x")])


@pytest.mark.parametrize("params", [None, {}, {"inner_steps": 3, "inner_lr": 1}, {"inner_steps": None}])
def test_params_that_are_right_reach_mlflow_once(validate, params):
    data, given = validate.call({"x": [[1, 2]]}, params, INPUTS, PARAMS, LOADER)
    assert (data["x"].tolist(), given, len(validate.asked)) == ([[1.0, 2.0]], params, 1)


@pytest.mark.parametrize(
    ("params", "schema", "sentence"),
    [
        ([3], PARAMS, "params is list; expected values by name."),
        ({"inner_step": 3}, PARAMS, "unknown param 'inner_step'; expected inner_steps, inner_lr; did you mean inner_steps?"),
        ({"inner_steps": 1.5}, PARAMS, "inner_steps is 1.5; expected a whole number."),
        ({"inner_steps": True}, PARAMS, "inner_steps is True; expected a whole number."),
        ({"inner_lr": "0.1"}, PARAMS, "inner_lr is '0.1'; expected a number."),
        ({"anything": 1}, None, "unknown param 'anything'; expected none."),
        (
            {"inner_lr": 0.1},
            ParamSchema(PARAMS.params[:1]),
            "inner_lr cannot be chosen, for this model has learned its rates; leave it out.",
        ),
    ],
)
def test_params_that_are_wrong(validate, params, schema, sentence):
    with pytest.raises(Refusal, match=f"^{re.escape(sentence)}$"):
        validate.call({"x": [[1, 2]]}, params, INPUTS, schema, LOADER)
    assert validate.asked == []


def test_other_projects_models_are_left_alone(validate):
    given = ({"z": 1}, {"anything": 1}, INPUTS, None, "mlflow.sklearn")
    assert validate.call(*given) == given[:2]
    assert validate.asked == [given]


def test_a_refusal_is_mlflows_own_kind_of_error():
    assert issubclass(Refusal, MlflowException)
