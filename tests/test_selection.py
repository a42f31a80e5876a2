"""Globs and regular expressions over parameter names."""

import pytest

from gradgrad.errors import UsageError
from gradgrad.selection import select

NAMES = ["net.0.weight", "net.0.bias", "net.2.weight"]


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        (None, NAMES),
        ("*", NAMES),
        ("*.weight", ["net.0.weight", "net.2.weight"]),
        ("net.0.*", ["net.0.weight", "net.0.bias"]),
        ("net.[02].weight", ["net.0.weight", "net.2.weight"]),
        (r"^net\.\d\.bias$", ["net.0.bias"]),
        ("^net", NAMES),
    ],
)
def test_patterns(pattern, chosen):
    assert select(NAMES, pattern, "x") == chosen


def test_a_pattern_that_matches_nothing_names_what_is_there():
    with pytest.raises(UsageError, match="which matches none of") as error:
        select(NAMES, "net.0.wieght", "GradientNormPenalty")
    assert str(error.value) == (
        "GradientNormPenalty got parameters 'net.0.wieght', which matches none of: net.0.weight, net.0.bias, net.2.weight\n"
        "write:    net.0.weight, or another glob, or a regular expression that begins with ^"
    )


def test_a_broken_regular_expression_is_refused():
    with pytest.raises(UsageError, match=r"^x got parameters '\^\(', which is no regular expression: missing \), unterminated"):
        select(NAMES, "^(", "x")
