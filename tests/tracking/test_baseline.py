"""The group that others are compared with."""

import pytest

from gradgrad.errors import UsageError
from gradgrad.tracking.baseline import find_baselines, shown

KEYS, NAMES = ["data.init_args.name", "model.init_args.weight"], ["name", "weight"]
GROUPS = [("a", "0.0"), ("a", "0.3"), ("b", "0.0"), ("b", "1.0"), ("c", "2.0")]


@pytest.mark.parametrize(
    "wanted", [["weight=0.3"], ["model.weight=0.30"], ["model.init_args.weight=3e-1"], ["0.3"], ["a", "0.3"]]
)
def test_one_group_is_the_baseline_of_all(wanted):
    assert find_baselines(wanted, KEYS, NAMES, GROUPS) == dict.fromkeys(GROUPS, ("a", "0.3"))


@pytest.mark.parametrize("wanted", [["weight=0"], ["0"]])
def test_where_several_fit_each_group_has_its_own(wanted):
    own = {group: (group[0], "0.0") for group in GROUPS if group[0] != "c"}
    assert find_baselines(wanted, KEYS, NAMES, GROUPS) == own


def test_versions_are_no_numbers_where_they_are_spelt_alike():
    groups = [("2.1",), ("2.10",)]
    for (version,) in groups:
        assert set(find_baselines([version], ["v"], ["v"], groups).values()) == {(version,)}


def test_an_equals_sign_may_be_part_of_a_value():
    assert find_baselines(["a=b"], ["v"], ["v"], [("a=b",), ("c",)])[("c",)] == ("a=b",)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["weight=7"], "--against weight=7: no group has these values."),
        (["seven"], "--against seven: no group has these values."),
    ],
)
def test_an_unknown_group_is_refused(wanted, said):
    known = "name=a weight=0.0, name=a weight=0.3, name=b weight=0.0, name=b weight=1.0, name=c weight=2.0"
    with pytest.raises(UsageError, match="no group") as caught:
        find_baselines(wanted, KEYS, NAMES, GROUPS)
    assert str(caught.value) == f"{said}\nexpected: one of {known}\nwrite:    --against name=a weight=0.0"


def test_a_value_of_two_keys_is_refused():
    with pytest.raises(UsageError, match="a value of") as caught:
        find_baselines(["1"], ["x", "y"], ["x", "y"], [("1", "2"), ("2", "1")])
    assert str(caught.value) == "--against 1: a value of x and of y.\nwrite: --against x=1"


def test_groups_are_named_on_one_line():
    assert shown(("a\nb", "1"), ["x", "y"]) == "x=a b y=1"
