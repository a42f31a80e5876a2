"""Keys as the user writes them."""

import pandas as pd
import pytest

from gradgrad.errors import UsageError
from gradgrad.tracking.run_keys import differing, find, labels, resolve

WEIGHT = "model.init_args.penalties.0.init_args.weight"
CLASS = "model.init_args.penalties.0.class_path"
SETTINGS = pd.DataFrame(
    {WEIGHT: ["0.0", "0.3", "0.3"], CLASS: ["P", "P", "P"], "data.init_args.name": ["a"] * 3, "git.commit": list("abc")},
    dtype=object,
)


@pytest.mark.parametrize("key", [WEIGHT, "model.penalties.0.weight", "model.init_args.penalties.0.weight"])
def test_init_args_may_be_left_out(key):
    assert find(key, SETTINGS) == [WEIGHT]


def test_tags_are_keys_and_repetitions_count_once():
    assert resolve("--by", ["git.commit", "model.penalties.0.weight", WEIGHT], SETTINGS) == ["git.commit", WEIGHT]


def test_a_branch_means_what_differs_below_it():
    assert find("model.penalties", SETTINGS) == [WEIGHT]
    assert find("data", SETTINGS) == ["data.init_args.name"]


def test_a_branch_leaves_out_what_its_other_columns_tell():
    classes, orders = ["GradientNorm", "GradientNorm", "Smoothness"], [None, None, "2"]
    settings = SETTINGS.assign(
        **{CLASS: classes, WEIGHT: ["0.1", "1", "1"], "model.init_args.penalties.0.init_args.order": orders}
    )
    assert find("model.penalties", settings) == [CLASS, WEIGHT]
    settings = settings.assign(**{WEIGHT: ["0.1", "0.1", "1"]})
    assert find("model.penalties", settings) == [CLASS]
    assert find(WEIGHT, settings) == [WEIGHT]  # what was named itself stays


def test_an_empty_list_is_told_from_the_penalties_of_others():
    settings = SETTINGS.assign(**{"model.init_args.penalties": ["[]", None, None], WEIGHT: [None, "0.3", "0.3"]})
    assert find("model.penalties", settings) == [WEIGHT]
    settings = settings.assign(**{WEIGHT: [None, "0.3", None], CLASS: None})  # a run of a model that knows no penalties
    assert find("model.penalties", settings) == ["model.init_args.penalties", WEIGHT]


def test_the_exact_name_comes_first():
    assert find("a.b", pd.DataFrame({"a.init_args.b": ["1"], "a.b": ["2"]})) == ["a.b"]


@pytest.mark.parametrize(
    ("key", "near"), [("weight", "model.penalties.0.weight"), ("model.penalties.0.wieght", "model.penalties.0.weight")]
)
def test_an_unknown_key_names_the_nearest(key, near):
    sentence = (
        f"--by {key}: no run has such a setting or tag.\n"
        "expected: a key as on the command line, or a tag; these differ: model.penalties.0.weight\n"
        f"write:    --by {near}"
    )
    with pytest.raises(UsageError, match=key) as caught:
        resolve("--by", [key], SETTINGS)
    assert str(caught.value) == sentence


def test_what_differs_in_each_run_makes_no_groups():
    assert differing(SETTINGS) == ["model.penalties.0.weight"]


def test_labels_are_short_and_distinct():
    assert labels([WEIGHT, "data.init_args.name"]) == ["weight", "name"]
    assert labels([WEIGHT, "model.init_args.penalties.1.init_args.weight"]) == ["penalties.0.weight", "penalties.1.weight"]
    assert labels(["b", "a.b"]) == ["b", "a.b"]
