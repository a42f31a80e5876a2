"""Reptile: move the initialization towards what the tasks made of it."""

import torch
from torch import Tensor

from gradgrad.adaptation.adapt import detached
from gradgrad.adaptation.execution import Execution
from gradgrad.adaptation.inner_optimizer import Tensors
from gradgrad.adaptation.learner import NETWORK, Learner
from gradgrad.adaptation.meta_gradient import MetaGradient, MetaStep
from gradgrad.batches import TaskBatch
from gradgrad.errors import UsageError


class Reptile(MetaGradient):
    r"""Take :math:`\theta - \frac{1}{T} \sum_t \phi_t` for a gradient (Nichol et al. 2018, arXiv:1803.02999).

    A task's support and query samples are one set for it: it needs no held-out queries in training, and gets them all for the
    inner loop, all at each step (no mini-batches). The loss it reports is that of the query samples, which the task has then
    seen. With ``torch.optim.SGD`` the outer rate is Reptile's step size, 1 annealed to 0 in the paper.
    """

    compiles = False

    def check(self, learner: Learner) -> None:
        """Refuse what Reptile has no direction for.

        Args:
            learner: as configured.

        Raises:
            UsageError: learned rates, or parameters that do not adapt.
        """
        idle = [name for name, p in learner.network.named_parameters() if p.requires_grad and name not in learner.names]
        if learner.optimizer.rates() or idle:
            got = "an inner optimizer with learned rates" if not idle else f"parameters that do not adapt, {idle[0]} for one"
            raise UsageError(
                f"Reptile got {got}; it moves only what adapts.\n"
                "write:    learn: null and adapt: null, or meta_gradient: gradgrad.adaptation.Unrolled"
            )

    def __call__(self, learner: Learner, meta: Tensors, tasks: TaskBatch, execution: Execution, iteration: int) -> MetaStep:
        """Adapt without a graph, and compare.

        Args:
            learner: adapts.
            meta: meta-parameters.
            tasks: T of them.
            execution: how the tasks are computed.
            iteration: unused.

        Returns:
            The direction and the scores.
        """
        loop = execution.mode == "loop"
        start = detached(meta)
        parts = learner.parts(start)

        def adapted(task: TaskBatch) -> tuple[Tensors, Tensor, Tensor]:
            support = (torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y]))
            *_, fast = learner.path(parts, support, learner.steps, first_order=True, loop=loop)
            score = learner.score(fast, parts.slow, task.query_x, task.query_y)
            return fast, score.loss, score.accuracy

        fast, losses, accuracies = execution.map(adapted, tasks)
        moved = [name for name in learner.names if NETWORK + name in start]  # a frozen one may adapt, but stays
        gradients = {NETWORK + name: start[NETWORK + name] - fast[name].mean(0) for name in moved}
        return MetaStep(gradients, losses, accuracies)
