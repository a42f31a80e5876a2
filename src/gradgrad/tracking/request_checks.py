"""What a served model is asked, checked before it is computed; each refusal is one sentence and HTTP's 400."""

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from numpy.typing import NDArray

from gradgrad.errors import nearest, some

LOADER = "gradgrad.tracking.served"  # by which MLflow knows the models of this project


class Refusal(MlflowException):
    """A request that cannot be answered.

    Args:
        sentence: what was got and what was expected.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "message" and "message" in self.__dict__:
            return  # MLflow's server would put the whole request in front
        super().__setattr__(name, value)


def checked(data: Any, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> dict[str, NDArray[Any]]:
    """Check a request's inputs.

    Args:
        data: arrays, or what can be made arrays, by name.
        shapes: what is expected: shape, with -1 for any number of rows, and type, by name.

    Returns:
        Arrays of that type.

    Raises:
        Refusal: a name, a shape or a value is wrong.
    """
    if not isinstance(data, Mapping):
        raise Refusal(f"the request is {type(data).__name__}; expected {some(shapes)} by name.")
    check_names("input", data, shapes)
    missing = [name for name in shapes if name not in data]
    if missing:
        raise Refusal(f"the request lacks {some(missing)}; expected {some(shapes)}.")
    return {name: _array(name, data[name], shape, dtype) for name, (shape, dtype) in shapes.items()}


def check_names(what: str, given: Collection[str], known: Collection[str]) -> None:
    """Refuse names that mean nothing, instead of ignoring them.

    Args:
        what: ``input`` or ``param``, for the sentence.
        given: by the client.
        known: to the model.

    Raises:
        Refusal: there is one.
    """
    for name in given:
        if name not in known:
            near = nearest(str(name), known)
            expected = f"{some(known)}" if known else "none"
            raise Refusal(f"unknown {what} {name!r}; expected {expected}" + (f"; did you mean {near}?" if near else "."))


def _array(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise Refusal(f"{name} is no array of numbers; expected one of shape {list(shape)}.") from error
    if array.dtype.kind not in "fiub":
        raise Refusal(f"{name} has values of type {array.dtype}; expected numbers.")
    if array.ndim != len(shape) or any(a != b for a, b in zip(array.shape, shape, strict=True) if b != -1):
        raise Refusal(f"{name} has shape {list(array.shape)}; expected {list(shape)}, where -1 is any number.")
    if array.size == 0:
        raise Refusal(f"{name} is empty; expected at least one row.")
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array)
        if bad.any():
            raise Refusal(f"{name} has a value that is missing or not finite in row {np.argwhere(bad)[0][0] + 1}.")
        if dtype.kind in "iu" and (array % 1 != 0).any():
            raise Refusal(f"{name} has {array[array % 1 != 0][0]:g}; expected whole numbers.")
    return array.astype(dtype)


def _check_params(params: Any, types: Mapping[str, str]) -> None:
    if params is not None and not isinstance(params, Mapping):
        raise Refusal(f"params is {type(params).__name__}; expected values by name.")
    if "inner_lr" in (params or {}) and "inner_lr" not in types and "inner_steps" in types:
        raise Refusal("inner_lr cannot be chosen, for this model has learned its rates; leave it out.")
    check_names("param", params or {}, types)
    for name, value in (params or {}).items():
        allowed = int if types[name] == "long" else int | float
        if value is not None and (isinstance(value, bool) or not isinstance(value, allowed)):
            raise Refusal(f"{name} is {value!r}; expected a {'whole ' if allowed is int else ''}number.")


def install() -> None:
    """Check requests to models of this project before MLflow does.

    MLflow ignores params that it does not know, so that a misspelt one gives an answer to another question, and its refusals
    print the whole request. It offers no place to object, hence this detour; other projects' models never come here.
    """
    pyfunc: Any = import_module("mlflow.pyfunc")  # `mlflow.pyfunc` may be a stand-in that loads it later
    theirs = getattr(pyfunc, "_validate_prediction_input", None)
    if theirs is None or getattr(theirs, "gradgrad", False):  # another MLflow: its own checks remain
        return

    def ours(data: Any, params: Any, input_schema: Any, params_schema: Any, flavor: Any = None) -> Any:
        if flavor == LOADER and input_schema is not None:
            data = checked(data, {spec.name: (spec.shape, spec.type) for spec in input_schema.inputs})
            _check_params(params, {spec.name: spec.dtype.name for spec in params_schema.params} if params_schema else {})
        return theirs(data, params, input_schema, params_schema, flavor)

    ours.gradgrad = True  # type: ignore[attr-defined]  # a mark, so that it is installed once
    pyfunc._validate_prediction_input = ours
