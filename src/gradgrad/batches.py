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


class TaskBatch(NamedTuple):
    """T tasks, each with the samples to adapt on and those to be judged by. Regression has one way.

    Attributes:
        support_x: inputs to adapt on, shape ``(T, S, ...)`` with S = ways * shots.
        support_y: their targets, shape ``(T, S, 1)`` in their own unit, or class numbers (int64) below ``ways``, ``(T, S)``.
        query_x: inputs to be judged by, shape ``(T, Q, ...)``.
        query_y: their targets, as ``support_y``; NaN or -1 where a user's own task does not tell them.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


class TaskShape(NamedTuple):
    """What a network for these tasks takes and gives.

    Attributes:
        inputs: shape of one input, for example ``(1,)`` or ``(1, 28, 28)``; a network is built for ``inputs[0]`` features or
            channels.
        outputs: number of targets, or of ways.
        classification: whether targets are class numbers.
    """

    inputs: tuple[int, ...]
    outputs: int
    classification: bool


class AdaptedTasks(NamedTuple):
    """T tasks, and how a learner did on them.

    Attributes:
        tasks: what it was given.
        losses: mean query loss after 0, 1, ..., S inner steps, shape ``(T, S + 1)``; NaN where the targets are not known.
        accuracies: share of query samples whose class is right, same shape; NaN in regression.
        before: outputs for the query samples before adaptation, shape ``(T, Q, outputs)``.
        after: the same after the number of steps that counts.
        params: adapted parameters of the network by name, with a leading dimension of T; empty unless asked for.
    """

    tasks: TaskBatch
    losses: Tensor
    accuracies: Tensor
    before: Tensor
    after: Tensor
    params: dict[str, Tensor]
