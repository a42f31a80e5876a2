import pytest

from gradgrad.errors import nearest, some


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [("weigt", ["weight", "width"], "weight"), ("weight", [], ""), ("xyz", ["weight"], "")],
)
def test_nearest(name, known, expected):
    assert nearest(name, known) == expected


def test_some():
    assert some("abc") == "a, b, c"
    assert some("abcdefgh") == "a, b, c, d, e, f, ..."
