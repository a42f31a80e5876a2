"""Meta-learning of an initialization: MAML and its family, by settings."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gradgrad.adaptation import SGD, Execution, InnerOptimizer, Learner, MetaGradient, Unrolled
from gradgrad.adaptation.execution import Randomness
from gradgrad.adaptation.unrolled import UnrolledObjective
from gradgrad.batches import TaskBatch, TaskShape
from gradgrad.errors import UsageError
from gradgrad.modules.adapting import AdaptingModule
from gradgrad.modules.descent import Descent
from gradgrad.modules.hyperparameters import keep_hyperparameters
from gradgrad.modules.learnable import check_checkpoints, check_memory, check_randomness, check_settings, default_mode, explained
from gradgrad.selection import select

NetworkCallable = Callable[[int, int], nn.Module]


class MAML(AdaptingModule):
    r"""Learn what adapts fast: :math:`\min_\theta \frac{1}{T} \sum_t L_t^{query}(U(\theta, support_t))`, U the inner loop.

    The family is a matter of settings. ``meta_gradient`` chooses MAML, first-order MAML and MAML++'s annealings (``Unrolled``),
    ``Reptile`` or iMAML (``Implicit``); ``inner_optimizer`` with learned rates Meta-SGD and MAML++'s rates; ``adapt`` ANIL (the
    last layer), BOIL (all but the last) and CAVIA (a context vector, with ``gradgrad.networks.ContextMLP``).

    Losses are means over samples, also in the inner loop: rates of the TensorFlow code of Finn et al., which sums over classes,
    are to be multiplied by the number of ways. ``max_steps`` counts meta-iterations. Metrics of training are logged for every
    ``log_every_n_steps``-th of them: ``train/loss`` (query loss after adaptation, mean over tasks), ``train/accuracy`` in
    classification and ``train/gradient_norm``
    (of the meta-gradient, before clipping). Of validation and test: what
    :func:`gradgrad.modules.task_scores.headline` names, and ``transductive``, 1 where the queries of a task are normalized
    together. The unit of a loss is the criterion's: squared target, or nats.

    Args:
        network: called with the number of features or channels and of outputs, for example ``gradgrad.networks.MLP``.
        inner_optimizer: of the inner loop, with its rate; SGD of 0.01 is that of the sinusoid of Finn et al. (2017).
        inner_steps: of the inner loop in training; 1 as there.
        adapt: a glob of names of parameters that adapt, or several; null means all that are trained.
        meta_gradient: what the outer loop follows.
        mode: ``vmap``, ``chunked`` or ``loop``, see :class:`gradgrad.adaptation.Execution`; ``auto`` is ``loop`` for networks
            with convolutions on a CPU, else ``vmap``. All give the same numbers.
        chunk_size: tasks at a time in mode ``chunked``.
        compile: compile the meta-gradient: about half a minute once, then several times faster on small networks.
        randomness: how tasks share random numbers of the network (dropout): ``error``, ``different`` or ``same``.
        loss: maps outputs and targets to a mean loss; null means squared error, or cross-entropy for class numbers.
        optimizer: of the outer loop, called with the parameters; Adam of 0.001 is that of Finn et al.
        scheduler: called with the optimizer, stepped after each meta-iteration (``ReduceLROnPlateau`` after each validation).
        clip_norm: largest norm of the meta-gradient; null does not clip.
        iterations_per_step: meta-iterations in one of the trainer's steps, so that its loop does not dominate small problems.
        eval_inner_steps: steps after which ``val/loss`` and ``test/loss`` are taken; null means ``inner_steps``.
        curve_steps: steps up to which evaluation goes; 10 as in Finn et al.
        diverged_above: a query loss beyond this, and beyond that before adaptation, counts as diverged; 10 is a guess, in units
            of the loss.

    Raises:
        UsageError: a setting out of range.
    """

    def __init__(
        self,
        network: NetworkCallable,
        inner_optimizer: InnerOptimizer | None = None,
        inner_steps: int = 1,
        adapt: str | Sequence[str] | None = None,
        meta_gradient: MetaGradient | None = None,
        mode: Literal["auto", "vmap", "chunked", "loop"] = "auto",
        chunk_size: int = 8,
        compile: bool = False,
        randomness: Randomness = "error",
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=0.001),
        scheduler: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        iterations_per_step: int = 1,
        eval_inner_steps: int | None = None,
        curve_steps: int = 10,
        diverged_above: float = 10.0,
    ) -> None:
        counted = inner_steps if eval_inner_steps is None else eval_inner_steps
        super().__init__(counted, curve_steps, diverged_above)
        keep_hyperparameters(self)
        sizes = {"inner_steps": inner_steps, "iterations_per_step": iterations_per_step, "chunk_size": chunk_size}
        if min(*sizes.values()) < 1 or min(counted, curve_steps) < 0 or not diverged_above > 0:
            got = {**sizes, "eval_inner_steps": counted, "curve_steps": curve_steps, "diverged_above": diverged_above}
            wrong = next(
                name for name, value in got.items() if value < (name in sizes) or (name == "diverged_above" and not value > 0)
            )
            expected = "1 or more" if wrong in sizes else "0 or more, diverged_above more than 0"
            raise UsageError(f"MAML got {wrong} {got[wrong]}; expected {expected}.")
        if clip_norm is not None and not clip_norm > 0:
            raise UsageError(f"MAML got clip_norm {clip_norm}; expected a positive number, or null for no clipping.")
        self.automatic_optimization = False
        self.make_network, self.make_optimizer, self.make_scheduler = network, optimizer, scheduler
        self.inner_optimizer = SGD() if inner_optimizer is None else inner_optimizer
        self.meta_gradient = Unrolled() if meta_gradient is None else meta_gradient
        self.inner_steps, self.adapt, self.mode, self.criterion = inner_steps, adapt, mode, loss
        self.chunk_size, self.compile_gradient, self.randomness = chunk_size, compile, randomness
        self.clip_norm, self.iterations_per_step = clip_norm, iterations_per_step
        self._execution: Execution | None = None

    def _build(self, shape: TaskShape) -> None:
        self.task_shape = shape
        self.network = self.make_network(shape.inputs[0], shape.outputs)
        if self.criterion is None:
            self.criterion = nn.CrossEntropyLoss() if shape.classification else nn.MSELoss()
        params = dict(self.network.named_parameters())
        names = [name for name, p in params.items() if p.requires_grad]
        if self.adapt is not None:
            patterns = [self.adapt] if isinstance(self.adapt, str) else self.adapt
            chosen = {name for pattern in patterns for name in select(params, pattern, "MAML", "adapt")}
            names = [name for name in params if name in chosen]
        self.inner_optimizer.prepare({name: params[name] for name in names}, self.inner_steps)
        self.learner = Learner(
            self.network,
            self.criterion,
            self.inner_optimizer,
            tuple(names),
            self.inner_steps,
            self.meta_gradient.proximity,
        )

    @property
    def execution(self) -> Execution:
        """How tasks are computed on this device."""
        if self._execution is None:
            mode = default_mode(self.learner, self.device) if self.mode == "auto" else self.mode
            self._execution = Execution(mode, self.chunk_size, self.compile_gradient, self.randomness)
        return self._execution

    def on_fit_start(self) -> None:
        """Find out what cannot be trained before the first step."""
        check_memory(self.learner)
        check_randomness(self.learner, self.execution)
        check_settings(self.meta_gradient, self.learner, self.execution)
        check_checkpoints(self.trainer, self.iterations_per_step)
        self._descent = Descent(self, self.clip_norm)

    def loss(self, batch: TaskBatch) -> Tensor:
        """Evaluate what is minimized, as a differentiable function of the parameters.

        Args:
            batch: T tasks.

        Returns:
            Mean query loss after adaptation, in units of the criterion.
        """
        objective = UnrolledObjective(self.learner, loop=self.execution.mode == "loop")
        return self.execution.mean(objective, self.learner.meta(), batch)

    def training_step(self, batch: TaskBatch | list[TaskBatch], batch_idx: int) -> None:
        """Make one meta-iteration for each batch of tasks.

        Args:
            batch: one, or a list of at most ``iterations_per_step``.
            batch_idx: unused.
        """
        descent, scheduler = self._descent, self.lr_schedulers()
        waits = isinstance(scheduler, ReduceLROnPlateau)  # an LRScheduler too, which is stepped after the validation
        stepped = scheduler if isinstance(scheduler, LRScheduler) and not waits else None
        meta = self.learner.meta()
        params, first, every = list(meta.values()), self.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        rows = []
        with explained(self.execution.mode):
            for iteration, tasks in enumerate(batch if isinstance(batch, list) else [batch], first):
                step = self.meta_gradient(self.learner, meta, tasks, self.execution, iteration)
                logged = (iteration + 1) % every == 0
                norm = descent.step(step.losses, params, [step.gradients[name] for name in meta], logged)
                if stepped is not None:
                    stepped.step()
                if norm is not None and logged:
                    rows.append((iteration + 1, torch.stack([step.losses.mean(), norm, step.accuracies.mean()])))
        self.log("train/loss", step.losses.mean(), prog_bar=True, logger=False)
        self._log_rows(rows)

    def _log_rows(self, rows: list[tuple[int, Tensor]]) -> None:
        names = ["train/loss", "train/gradient_norm", *(["train/accuracy"] if self.task_shape.classification else [])]
        if rows:
            # Each rank has seen its own tasks.
            table = self.trainer.strategy.reduce(torch.stack([row for _, row in rows]), reduce_op="mean")
            for (step, _), values in zip(rows, table.tolist(), strict=True):
                self._record(dict(zip(names, values, strict=False)), step)
                if math.isnan(values[0]):
                    raise UsageError(
                        f"the query loss is NaN at meta-iteration {step}: a task holds NaN, or adaptation has diverged.\n"
                        "write:    a smaller lr or a clip_norm for the inner optimizer, a clip_norm for the module, or clean data"
                    )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer and the scheduler that the config names.

        Returns:
            As Lightning takes them.
        """
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        return optimizer if self.make_scheduler is None else ([optimizer], [self.make_scheduler(optimizer)])
