import pytest

from gradgrad.errors import nearest


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [("weigt", ["weight", "width"], "weight"), ("weight", [], ""), ("xyz", ["weight"], "")],
)
def test_nearest(name, known, expected):
    assert nearest(name, known) == expected
