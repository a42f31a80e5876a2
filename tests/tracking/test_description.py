from gradgrad.tracking.description import describe


def test_describe():
    text = describe(["gradgrad fit -c a.yaml"], {"data": "diabetes", "seed": "0", "ended by": ""}, {"test/rmse": 55.4321098})
    assert text == (
        "```\ngradgrad fit -c a.yaml\n```\n\n- **data**: diabetes\n- **seed**: 0\n\n"
        "| metric | value |\n|---|---:|\n| test/rmse | 55.4321 |"
    )


def test_an_empty_run():
    assert describe([], {}, {}) == ""
