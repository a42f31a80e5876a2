from gradgrad.tracking.description import describe


def test_describe():
    results = {"best/loss": 0.5, "test/mae": 45.0, "test/rmse": 55.4321098}
    text = describe(["gradgrad fit -c a.yaml"], {"data": "diabetes", "seed": "0", "ended by": ""}, results)
    assert text == (
        "- **test**: mae 45, rmse 55.432\n- **best**: loss 0.5\n\n"
        "```\ngradgrad fit -c a.yaml\n```\n\n- **data**: diabetes\n- **seed**: 0"
    )


def test_an_empty_run():
    assert describe([], {}, {}) == ""
