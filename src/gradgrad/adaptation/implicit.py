"""iMAML: the meta-gradient by the implicit function theorem, without the inner loop's graph."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from gradgrad.adaptation.adapt import detached
from gradgrad.adaptation.execution import Execution
from gradgrad.adaptation.inner_optimizer import Tensors
from gradgrad.adaptation.learner import NETWORK, Learner, Parts
from gradgrad.adaptation.meta_gradient import MetaGradient, MetaStep
from gradgrad.batches import TaskBatch
from gradgrad.derivatives import double_backward, hvp
from gradgrad.errors import UsageError


class Implicit(MetaGradient):
    r"""Take :math:`((1 + \delta) I + \frac{1}{\lambda} H)^{-1} \nabla L^{query}(\phi)` (iMAML; Rajeswaran et al. 2019, NeurIPS).

    The inner loop minimizes :math:`L^{support}(\phi) + \frac{\lambda}{2} |\phi - \theta|^2`, H is the Hessian of its first term,
    and the system is solved by conjugate gradients on Hessian-vector products. Exact where the inner loop has converged and
    :math:`\delta = 0`. Memory does not grow with inner steps. Parameters that do not adapt get the implicit gradient too.

    Args:
        proximity: :math:`\lambda`; 2 is the paper's on Omniglot.
        cg_steps: of conjugate gradients; 5 is the paper's.
        damping: :math:`\delta`, which shortens the gradient and keeps the system definite where the inner loss is curved
            downwards; the authors' code takes 1 on Omniglot.

    Raises:
        UsageError: a setting out of range.
    """

    compiles = False

    def __init__(self, proximity: float = 2.0, cg_steps: int = 5, damping: float = 0.0) -> None:
        if not proximity > 0 or cg_steps < 1 or damping < 0:
            raise UsageError(
                f"Implicit got proximity {proximity}, cg_steps {cg_steps}, damping {damping}; "
                "expected proximity above 0, 1 step or more, damping of 0 or more."
            )
        self.proximity, self.cg_steps, self.damping = proximity, cg_steps, damping

    def check(self, learner: Learner) -> None:
        """Refuse learned rates: the end of a converged inner loop does not depend on them.

        Args:
            learner: as configured.

        Raises:
            UsageError: there are some.
        """
        if learner.optimizer.rates():
            raise UsageError(
                "Implicit got an inner optimizer with learned rates, on which its gradient does not depend.\n"
                "write:    learn: null, or meta_gradient: gradgrad.adaptation.Unrolled"
            )

    def __call__(self, learner: Learner, meta: Tensors, tasks: TaskBatch, execution: Execution, iteration: int) -> MetaStep:
        """Adapt without a graph, then solve.

        Args:
            learner: adapts, with ``proximity``.
            meta: meta-parameters.
            tasks: T of them.
            execution: how the tasks are computed.
            iteration: unused.

        Returns:
            The gradient and the scores.
        """
        count, total, losses, accuracies = len(tasks.support_x), dict[str, Tensor](), [], []
        for chunk in execution.chunks(tasks):
            gradients, loss, accuracy = self._chunk(learner, meta, chunk, execution)
            losses.append(loss)
            accuracies.append(accuracy)
            for name, g in gradients.items():
                total[name] = total[name] + g / count if name in total else g / count
        return MetaStep(total, torch.cat(losses), torch.cat(accuracies))

    def _chunk(self, learner: Learner, meta: Tensors, tasks: TaskBatch, execution: Execution) -> tuple[Tensors, Tensor, Tensor]:
        """Sum the gradients of some tasks."""
        loop = execution.mode == "loop"
        parts = learner.parts(detached(meta))

        def adapted(task: TaskBatch) -> Tensors:
            *_, fast = learner.path(parts, (task.support_x, task.support_y), learner.steps, first_order=True, loop=loop)
            return fast

        def over_tasks(one: Callable[..., tuple[Tensor, Tensor]], fast: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if loop:  # a chunk of one
                losses, told = one({name: p[0] for name, p in fast.items()}, x[0], y[0])
                return losses[None], told[None]
            told_all: tuple[Tensor, Tensor] = vmap(one, randomness=execution.randomness)(fast, x, y)
            return told_all

        def judge(fast: Tensors, slow: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return over_tasks(lambda *one: learner.score(one[0], slow, *one[1:])[:2], fast, x, y)

        def support_loss(fast: Tensors, slow: Tensors) -> Tensor:
            return judge(fast, slow, tasks.support_x, tasks.support_y)[0].sum()

        fast = execution.map(adapted, tasks)
        fast_meta = {name: p.detach().requires_grad_() for name, p in fast.items()}
        slow_meta = {name: p.detach().requires_grad_(NETWORK + name in meta) for name, p in parts.slow.items()}
        slow_trained = {name: p for name, p in slow_meta.items() if p.requires_grad}
        variables = {**fast_meta, **slow_trained}
        with double_backward("the meta-gradient", autocast=True):
            losses, accuracies = judge(fast_meta, slow_meta, tasks.query_x, tasks.query_y)
            found = torch.autograd.grad(losses.sum(), list(variables.values()), allow_unused=True, materialize_grads=True)
        slopes = dict(zip(variables, found, strict=True))
        slope = {name: slopes[name] for name in fast}
        with torch.no_grad():
            solution = conjugate_gradients(
                lambda v: {
                    name: (1 + self.damping) * v[name] + h / self.proximity
                    for name, h in hvp(lambda at: support_loss(at, parts.slow), fast, v).items()
                },
                slope,
                self.cg_steps,
            )
        gradients = {NETWORK + name: g.sum(0) for name, g in solution.items() if NETWORK + name in meta}
        if slow_trained:
            mixed = self._mixed(support_loss, fast, slow_trained, parts, solution)
            gradients |= {NETWORK + name: slopes[name] - mixed[name] for name in slow_trained}
        return gradients, losses.detach(), accuracies

    def _mixed(
        self,
        support_loss: Callable[[Tensors, Tensors], Tensor],
        fast: Tensors,
        slow: Tensors,
        parts: Parts,
        solution: Tensors,
    ) -> Tensors:
        # d^2 L / d psi d phi times u, what adaptation hands on: u = (H + lambda I)^{-1} grad, and the solution is lambda u.
        joint = {**{f"fast.{n}": p for n, p in fast.items()}, **{f"slow.{n}": p.detach() for n, p in slow.items()}}

        def loss(joint: Tensors) -> Tensor:
            now_slow = parts.slow | {n: joint[f"slow.{n}"] for n in slow}
            return support_loss({n: joint[f"fast.{n}"] for n in fast}, now_slow)

        vector = {name: solution[name[5:]] if name.startswith("fast.") else torch.zeros_like(p) for name, p in joint.items()}
        with torch.no_grad():
            product = hvp(loss, joint, vector)
        return {name: product[f"slow.{name}"] / self.proximity for name in slow}


def conjugate_gradients(matvec: Callable[[Tensors], Tensors], right: Tensors, steps: int) -> Tensors:
    """Solve T symmetric positive definite systems at once (Hestenes and Stiefel 1952).

    Args:
        matvec: multiplies by each task's matrix.
        right: right-hand sides, with a leading dimension of T.
        steps: at most; a system that is solved before stands still.

    Returns:
        Solutions, shaped like ``right``.
    """

    def dot(left: Tensors, other: Tensors) -> Tensor:
        return torch.stack([(left[name] * other[name]).reshape(len(left[name]), -1).sum(1) for name in left]).sum(0)

    def times(factor: Tensor, vector: Tensors) -> Tensors:
        return {name: factor.view(-1, *[1] * (v.dim() - 1)) * v for name, v in vector.items()}

    def plus(left: Tensors, other: Tensors) -> Tensors:
        return {name: left[name] + other[name] for name in left}

    solution, residual, direction = {n: torch.zeros_like(r) for n, r in right.items()}, right, right
    square = dot(residual, residual)
    # Below this a residual is rounding, and steps along it would be noise.
    solved = square * (10 * torch.finfo(square.dtype).eps) ** 2
    for _ in range(steps):
        product = matvec(direction)
        curvature = dot(direction, product)
        length = torch.where(square > solved, square / curvature, 0)
        solution = plus(solution, times(length, direction))
        residual = plus(residual, times(-length, product))
        before, square = square, dot(residual, residual)
        direction = plus(residual, times(torch.where(before > solved, square / before, 0), direction))
    return solution
