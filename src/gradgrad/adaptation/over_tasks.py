"""An inner optimizer for many tasks at once."""

from torch.func import vmap

from gradgrad.adaptation.inner_optimizer import InnerOptimizer, State, Tensors


class OverTasks(InnerOptimizer):
    """An inner optimizer for parameters with a leading dimension of tasks: each task is clipped by its own norm.

    Args:
        optimizer: of one task.
    """

    def __init__(self, optimizer: InnerOptimizer) -> None:
        super().__init__()
        self.one = optimizer

    def init(self, params: Tensors) -> State:
        """Begin.

        Args:
            params: what adapts.

        Returns:
            As the optimizer of one task.
        """
        return self.one.init(params)

    def direction(self, gradients: Tensors, state: State, step: int) -> tuple[Tensors, State]:
        """Ask the optimizer of one task.

        Args:
            gradients: of the inner losses.
            state: after the step before.
            step: number of steps done before.

        Returns:
            Direction and state.
        """
        return self.one.direction(gradients, state, step)

    def update(self, params: Tensors, gradients: Tensors, state: State, step: int, rates: Tensors) -> tuple[Tensors, State]:
        """Take a step in each task.

        Args:
            params: what adapts.
            gradients: of the inner losses.
            state: after the step before.
            step: number of steps done before.
            rates: of all tasks.

        Returns:
            Parameters and state after the step.
        """
        if self.one.elementwise and self.one.clip_norm is None:  # half a step's time less
            return self.one.update(params, gradients, state, step, rates)
        updated: tuple[Tensors, State] = vmap(
            lambda params, gradients, state: self.one.update(params, gradients, state, step, rates)
        )(params, gradients, state)
        return updated
