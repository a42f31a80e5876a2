"""What crosses from data to module."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B samples of a supervised task.

    Attributes:
        x: inputs in their own units, shape ``(B, F)``.
        y: targets in their own unit, shape ``(B, 1)``.
    """

    x: Tensor
    y: Tensor


class Prediction(NamedTuple):
    """What a regressor says about B samples, beside the truth.

    Attributes:
        prediction: in the target's own unit, shape ``(B, 1)``.
        target: in the target's own unit, shape ``(B, 1)``.
    """

    prediction: Tensor
    target: Tensor


class Statistics(NamedTuple):
    """Mean and standard deviation of the training part, the only part that may inform a model.

    Attributes:
        x_mean: per feature, in its unit, shape ``(F,)``.
        x_std: per feature, in its unit, shape ``(F,)``; 1 where the training part is constant.
        y_mean: in the target's unit, shape ``(1,)``.
        y_std: in the target's unit, shape ``(1,)``.
    """

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor


class DataPart(NamedTuple):
    """Which data a stage saw, so that two runs can be told to have seen the same.

    Attributes:
        name: of the whole data set, for example ``diabetes``.
        part: ``training``, ``validation`` or ``test``.
        rows: number of samples in the part.
        digest: the first 32 hexadecimal digits of the SHA-256 of its rows in order.
        source: where the data came from: a path or ``scikit-learn``.
    """

    name: str
    part: str
    rows: int
    digest: str
    source: str
