"""Which way is better."""

import pytest

from gradgrad.tracking.direction import direction_of


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        *(
            (name, "minimize")
            for name in ("test/rmse", "val/loss", "best/mae", "mean_squared_error", "negative_log_likelihood", "logloss")
        ),
        *((name, "maximize") for name in ("test/accuracy", "val/r2", "BinaryAccuracy", "test/r2_score", "log_likelihood")),
        *((name, "") for name in ("hessian/lambda_max", "train/epoch", "accounts", "glossary")),
    ],
)
def test_the_name_tells(metric, direction):
    assert direction_of(metric) == direction
