"""What a sweep varies."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from gradgrad.errors import UsageError
from gradgrad.sweeps.space import decoded, encoded, identity
from gradgrad.sweeps.space_file import parse_space

ADAM, SGD = "torch.optim.Adam", "torch.optim.SGD"
CONDITIONAL = {"momentum": {"uniform": [0, 0.9], "when": {"optimizer": SGD}}, "optimizer": [ADAM, SGD], "lr": [0.1, 0.2]}


def test_kinds_of_axes():
    space = parse_space(
        {
            "a": {"uniform": [0, 1]},
            "b": {"log_uniform": ["1e-3", 30]},  # YAML 1.1 takes 1e-3 for a word
            "c": {"int": [1, 9], "step": 2},
            "d": {"log_int": [1, 64]},
            "e": {"categorical": ["x", None]},
            "f": [1, 2.5],
        },
        [],
    )
    assert {axis.key: axis.distribution for axis in space} == {
        "a": FloatDistribution(0, 1),
        "b": FloatDistribution(1e-3, 30, log=True),
        "c": IntDistribution(1, 9, step=2),
        "d": IntDistribution(1, 64, log=True),
        "e": CategoricalDistribution(["x", None]),
        "f": CategoricalDistribution([1, 2.5]),
    }


@pytest.mark.parametrize(
    "value", [1, 2.5, True, None, "word", "", "[a", '"quoted"', [1, {"a": None}], {"class_path": "x", "init_args": {}}]
)
def test_any_value_is_a_choice(value):
    back = decoded(encoded(value))
    assert back == value
    assert type(back) is type(value)
    assert encoded(value) is None or isinstance(encoded(value), str | int | float | bool)  # what Optuna takes


def test_a_grid_has_each_point_once_and_conditions_hold():
    space = parse_space({**CONDITIONAL, "momentum": {"categorical": [0.5, 0.9], "when": {"optimizer": SGD}}}, [])
    assert space.keys == ["optimizer", "lr", "momentum"]  # what others depend on comes first
    points = list(space.grid())
    assert len(points) == len({identity(point) for point in points}) == 2 + 4
    assert points[0] == {"optimizer": ADAM, "lr": 0.1}
    assert [point["momentum"] for point in points if point["optimizer"] == SGD] == [0.5, 0.9, 0.5, 0.9]


def test_conditions_over_two_steps():
    space = parse_space(
        {"c": {"categorical": [1, 2], "when": {"b": "y"}}, "b": {"categorical": ["x", "y"], "when": {"a": 1}}, "a": [0, 1]}, []
    )
    points = list(space.grid())
    assert points == [{"a": 0}, {"a": 1, "b": "x"}, {"a": 1, "b": "y", "c": 1}, {"a": 1, "b": "y", "c": 2}]
    proved = list(space.to_be_proved())
    assert {value["c"] for value in proved if "c" in value} == {1, 2}  # an end deep in conditions is reached


def test_optuna_chooses():
    space = parse_space(CONDITIONAL, [])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    found = [space.suggest(study.ask()) for _ in range(30)]
    assert all(("momentum" in settings) == (settings["optimizer"] == SGD) for settings in found)
    assert all(0 <= settings["momentum"] <= 0.9 for settings in found if "momentum" in settings)
    assert {settings["lr"] for settings in found} == {0.1, 0.2}


def test_each_end_is_proved_with_as_few_points_as_may_be():
    space = parse_space({"a": {"uniform": [0, 1]}, "b": [1, 2, 3], "c": ["x", "y", "z"]}, [])
    assert list(space.to_be_proved()) == [{"a": 0, "b": 1, "c": "x"}, {"a": 1, "b": 2, "c": "y"}, {"a": 1, "b": 3, "c": "z"}]
    floats = parse_space({"b": [0.3, 0.1, 0.2, 0.4]}, [])
    assert [point["b"] for point in floats.to_be_proved()] == [0.1, 0.4]
    assert next(point["a"] for point in parse_space({"a": [0.5, float("nan"), 0.1]}, []).to_be_proved()) == 0.5
    mixed = parse_space({"b": [1, 2.5, 3]}, [])
    assert [point["b"] for point in mixed.to_be_proved()] == [1, 2.5, 3]  # one of another kind may be wrong alone


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({}, "space is empty.\nexpected: at least one key with two values or bounds"),
        ({"a": [1]}, "space has one point only.\nexpected: a key with two values or bounds\nwrite:    gradgrad fit"),
        ({"a": [1, 2, 1.0]}, "space.a has 1.0 twice.\nexpected: each value once"),
        ({"a": []}, "space.a is an empty list."),
        ({"a": 3}, r"space.a is 3.\nexpected: a list of values, or {uniform: \[low, high\]}"),
        ({"a": {"unifrom": [0, 1]}}, r'space.a is {"unifrom": \[0, 1\]}.\nexpected: .*\nwrite:    uniform$'),
        ({"a": {"uniform": [1, 0]}}, r"space.a: uniform is \[1, 0\].\nexpected: a finite low below a finite high"),
        ({"a": {"uniform": [0, float("inf")]}}, "expected: a finite low below a finite high"),
        ({"a": {"uniform": [0]}}, "expected: uniform: .low, high., two numbers"),
        ({"a": {"uniform": ["x", 1]}}, "two numbers"),
        ({"a": {"uniform": [False, True]}}, "two numbers"),
        ({"resume": ["auto", "never"]}, "space.resume: that key is the sweep's own.\nexpected: keys of the training"),
        ({"trainer.logger.init_args.experiment_name": ["a", "b"]}, "that key is the sweep's own."),
        ({"o.init_args.lr": [1, 2], "o.lr": [3, 4]}, "space.o.lr and space.o.init_args.lr are one key.\nexpected: each key once"),
        ({"init_args.fixed": [1, 2]}, "is both in space and in overrides"),
        ({"a": {"log_uniform": [0, 1]}}, "expected: a low above 0, for it is a logarithm's\nwrite:    uniform"),
        ({"a": {"int": [0, 2.5]}}, "expected: whole numbers\nwrite:    uniform or log_uniform"),
        ({"a": {"log_uniform": [1, 2], "step": 1}}, "space.a: log_uniform has a step."),
        ({"a": {"uniform": [0, 1], "step": 3}}, "space.a: step is 3.\nexpected: more than 0, at most 1"),
        ({"fixed": [1, 2]}, "fixed is both in space and in overrides."),
        ({"seed_everything": [1, 2]}, r"a sweep repeats each point over seeds by itself.\nwrite: seeds: \[0, 1, 2\]"),
        ({"a": {"uniform": [0, 1], "when": {"bb": 1}}, "b": [1, 2]}, "space.a: when names bb, which the space does not vary.\n"),
        (
            {"a": {"uniform": [0, 1], "when": {"b": 3}}, "b": [1, 2]},
            "space.a: when b is 3, which it never is.\nexpected: one of 1, 2",
        ),
        (
            {"a": {"uniform": [0, 1], "when": {"b": [3, 4]}}, "b": {"int": [1, 7], "step": 2}},
            "space.a: when b is 4, which it never is.\nexpected: a whole number that space.b can be",
        ),
        (
            {"a": {"uniform": [0, 1], "when": {"b": 0.5}}, "b": {"uniform": [0, 1]}},
            "space.a: when names b, which has bounds.\nexpected: a key with a list or whole numbers",
        ),
        (
            {"a": {"uniform": [0, 1], "step": 0.3}},
            r"space.a: steps of 0.3 do not lead from 0 to 1.\nexpected: .*\nwrite:    uniform: \[0, 0.9\]$",
        ),
        ({"a": {"uniform": [0, 1], "when": 3}}, "space.a: when is 3.\nexpected: when: {<key>"),
        (
            {"a": {"categorical": [1, 2], "when": {"b": 1}}, "b": {"categorical": [1, 2], "when": {"a": 1}}},
            "space: the conditions of a, b go round in a circle.",
        ),
    ],
)
def test_what_is_no_space(written, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_space(written, ["fixed"])
    assert len(str(caught.value).splitlines()) <= 4


def test_a_grid_of_a_range():
    space = parse_space({"a": {"uniform": [0, 1]}}, [])
    with pytest.raises(
        UsageError, match=r"sampler grid: space.a is a range.\nexpected: a list of values\nwrite:    a: \[0.0, ..., 1.0\]"
    ):
        list(space.grid())


def test_steps_that_rounding_moves_and_conditions_in_either_spelling():
    space = parse_space({"n.init_args.a": [1, 2], "b": {"uniform": [0, 0.9], "step": 0.3, "when": {"n.a": 1}}}, [])
    assert [axis.when for axis in space] == [{}, {"n.init_args.a": [1]}]
