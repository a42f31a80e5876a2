"""Differentiation through the inner loop: MAML, first-order MAML, MAML++; by settings ANIL, BOIL, CAVIA, Meta-SGD."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from gradgrad.adaptation.execution import Execution
from gradgrad.adaptation.inner_optimizer import Tensors
from gradgrad.adaptation.learner import Learner, Parts
from gradgrad.adaptation.meta_gradient import MetaGradient, MetaStep
from gradgrad.batches import TaskBatch
from gradgrad.errors import UsageError

Told = tuple[Tensor, Tensor]


class Unrolled(MetaGradient):
    r"""Take :math:`\nabla_\theta \frac{1}{T} \sum_t L_t^{query}(\phi_t(\theta))` through all steps (Finn et al. 2017, ICML).

    Args:
        first_order: take inner gradients for constants (first-order MAML).
        first_order_iterations: meta-iterations at the beginning that are first-order in any case: MAML++'s derivative-order
            annealing (Antoniou et al. 2019, ICLR); 0 for none.
        multi_step_iterations: meta-iterations over which MAML++'s multi-step loss fades: at the beginning the query losses after
            each step count alike, in the end only the last one; linear between, and 0 for the last one always.
        checkpoint: recompute inner steps in the backward pass instead of keeping their graph.

    Raises:
        UsageError: negative numbers of iterations.
    """

    def __init__(
        self,
        first_order: bool = False,
        first_order_iterations: int = 0,
        multi_step_iterations: int = 0,
        checkpoint: bool = False,
    ) -> None:
        if min(first_order_iterations, multi_step_iterations) < 0:
            raise UsageError(
                f"Unrolled got first_order_iterations {first_order_iterations}, multi_step_iterations {multi_step_iterations}; "
                "expected 0 or more."
            )
        self.first_order, self.first_order_iterations = first_order, first_order_iterations
        self.multi_step_iterations, self.checkpoint = multi_step_iterations, checkpoint
        self.compiles = not checkpoint

    def step_weights(self, steps: int, iteration: int) -> list[float] | None:
        """Weigh the query losses after each step.

        Args:
            steps: of the inner loop.
            iteration: number of meta-iterations done before.

        Returns:
            Weights of the losses after 1, ..., ``steps`` steps, of sum 1; None where only the last one counts.
        """
        if iteration >= self.multi_step_iterations or steps < 2:
            return None
        faded = iteration / self.multi_step_iterations
        return [(1 - faded) / steps + (faded if step == steps - 1 else 0.0) for step in range(steps)]

    def __call__(self, learner: Learner, meta: Tensors, tasks: TaskBatch, execution: Execution, iteration: int) -> MetaStep:
        """Differentiate through the inner loop.

        Args:
            learner: adapts.
            meta: meta-parameters.
            tasks: T of them.
            execution: how the tasks are computed.
            iteration: number of meta-iterations done before.

        Returns:
            The gradient and the scores.
        """
        weights = self.step_weights(learner.steps, iteration)
        first_order = self.first_order or iteration < self.first_order_iterations
        loop = execution.mode == "loop"
        stacked = not loop and (self.checkpoint or not (execution.compile or learner.convolves))
        objective = UnrolledObjective(
            learner, first_order, weights is not None, self.checkpoint, loop, stacked, execution.randomness
        )
        like = tasks.query_x if tasks.query_x.is_floating_point() else next(iter(meta.values()))
        shared = None if weights is None else torch.tensor(weights, dtype=like.dtype, device=like.device)
        return MetaStep(*execution.gradient(objective, meta, tasks, shared))


@dataclass(frozen=True)
class UnrolledObjective:
    """The query loss of one task after adaptation, or of T tasks.

    Args:
        learner: adapts.
        first_order: take inner gradients for constants.
        multi_step: weigh the query losses after each step.
        checkpoint: recompute inner steps in the backward pass.
        loop: differentiate by ``torch.autograd`` instead of ``torch.func``.
        stacked: take T tasks at once.
        randomness: what ``torch.func.vmap`` then does with random numbers in the network.
    """

    learner: Learner
    first_order: bool = False
    multi_step: bool = False
    checkpoint: bool = False
    loop: bool = False
    stacked: bool = False
    randomness: str = "error"

    def __call__(self, meta: Tensors, tasks: TaskBatch, weights: Tensor | None = None) -> tuple[Tensor, Told]:
        """Adapt and judge.

        Args:
            meta: meta-parameters.
            tasks: one task without the leading dimension, or T with it.
            weights: of the losses after 1, 2, ... steps.

        Returns:
            What is minimized, and beside it loss and accuracy after the last step; scalars, or of shape ``(T,)``.
        """
        learner, parts, steps = self.learner, self.learner.parts(meta), self.learner.steps
        if self.stacked:
            path = learner.stacked_path(parts, tasks, steps, self.first_order, self.checkpoint, self.randomness)
        else:
            support = (tasks.support_x, tasks.support_y)
            path = learner.path(parts, support, steps, self.first_order, self.checkpoint, self.loop)
        scores = [
            self._score(parts, fast, tasks) for step, fast in enumerate(path) if step == steps or (step and self.multi_step)
        ]
        (loss, accuracy), losses = scores[-1], [loss for loss, _ in scores]
        total = loss if weights is None else torch.stack([w * each for w, each in zip(weights, losses, strict=True)]).sum(0)
        return total, (loss.detach(), accuracy)

    def _score(self, parts: Parts, fast: Tensors, tasks: TaskBatch) -> Told:
        def one(fast: Tensors, x: Tensor, y: Tensor) -> Told:
            score = self.learner.score(fast, parts.slow, x, y)
            return score.loss, score.accuracy

        if self.stacked:
            told: Told = vmap(one, randomness=self.randomness)(fast, tasks.query_x, tasks.query_y)
            return told
        return one(fast, tasks.query_x, tasks.query_y)
