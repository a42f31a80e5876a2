import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradgrad.tracking.flatten import LONGEST, flatten


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"a": {"b": 1, "c": None}}, {"a.b": "1", "a.c": "null"}),
        ({"a": [{"b": True}, {"b": 0.001}]}, {"a.0.b": "true", "a.1.b": "0.001"}),
        ({"a": [50, 50], "e": [], "d": {}}, {"a": "[50, 50]", "e": "[]", "d": "{}"}),
        ({"a": "text"}, {"a": "text"}),
        ({"a": {"b(c)%": 1}, "d": {"e": 2}}, {"a": '{"b(c)%": 1}', "d.e": "2"}),
        ({"a": [{"b": 1}, "plain"]}, {"a.0.b": "1", "a.1": "plain"}),
    ],
)
def test_flatten(tree, expected):
    assert dict(flatten(tree)) == expected


def test_a_long_value_is_cut_and_says_so():
    ((_, value),) = flatten({"a": "x" * (LONGEST + 1)})
    assert len(value) == LONGEST
    assert value.endswith("x...")


plain = st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False))
keys = st.text("abc_", min_size=1, max_size=4)


@given(
    st.dictionaries(keys, st.recursive(plain, lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3), max_leaves=8))
)
def test_every_leaf_is_there_once_and_reads_back(tree):
    def look_up(name):
        at = tree
        for step in name.split("."):
            at = at[step]
        return at

    pairs = list(flatten(tree)) if tree else []
    assert len(pairs) == len(dict(pairs))
    for name, value in pairs:
        assert json.loads(value) == look_up(name)
