"""What the members of the family differ in: the gradient that the outer loop follows."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from gradgrad.adaptation.execution import Execution
from gradgrad.adaptation.inner_optimizer import Tensors
from gradgrad.adaptation.learner import Learner
from gradgrad.batches import TaskBatch


class MetaStep(NamedTuple):
    """A meta-gradient, and how the tasks went.

    Attributes:
        gradients: by meta-parameter; mean over tasks.
        losses: query loss of each task after adaptation, shape ``(T,)``.
        accuracies: share of right query answers, shape ``(T,)``; NaN in regression.
    """

    gradients: Tensors
    losses: Tensor
    accuracies: Tensor


class MetaGradient(ABC):
    """Map meta-parameters and tasks to the direction of descent."""

    compiles = True
    proximity = 0.0

    @abstractmethod
    def __call__(self, learner: Learner, meta: Tensors, tasks: TaskBatch, execution: Execution, iteration: int) -> MetaStep:
        """Compute a meta-gradient.

        Args:
            learner: adapts.
            meta: meta-parameters.
            tasks: T of them.
            execution: how the tasks are computed.
            iteration: number of meta-iterations done before.

        Returns:
            The gradient and the scores.
        """

    def check(self, learner: Learner) -> None:  # noqa: B027  # most take any learner
        """Refuse a learner that this meta-gradient cannot train.

        Args:
            learner: as configured.

        Raises:
            UsageError: always with a sentence on what to write instead.
        """
