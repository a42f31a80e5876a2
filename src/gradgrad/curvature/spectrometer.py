"""What measures: a probe, an eigensolver, and the vectors that it found last time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gradgrad.curvature.agreed import agreed
from gradgrad.curvature.checked import WHO, one_of, whole_number
from gradgrad.curvature.measurement import LARGE, Solver, measure
from gradgrad.curvature.names import layer_metrics, plain
from gradgrad.curvature.operator import Kind, blocks, curvature_operator, reducer, trainable
from gradgrad.curvature.probe import Probe, Which, digest, draw, sources
from gradgrad.curvature.progress import Watched
from gradgrad.curvature.stability import against, preconditioner
from gradgrad.curvature.training_loss import sample_counter, training_loss
from gradgrad.curvature.undisturbed import undisturbed
from gradgrad.derivatives.operators import LinearOperator
from gradgrad.eigensolvers import SpectralDensity, spectral_density, trace
from gradgrad.errors import UsageError
from gradgrad.penalties.micro_batches import micro_batches

# Between two checks against lock-in, whichever comes first: measurements, and the factor by which steps have grown. Guesses: a
# cold start costs as much as four warm ones, and few measurements of a logarithmic schedule cover many steps.
COLD_EVERY, COLD_GROWTH = 20, 10


class Reading(NamedTuple):
    """What was measured at one moment.

    Attributes:
        metrics: by name, without prefix; empty where an adaptive optimizer has made no step yet.
        density: if it was asked for.
    """

    metrics: dict[str, float]
    density: SpectralDensity | None


@dataclass
class Spectrometer:
    """Measure the training loss of a module, on the same samples each time, without a trace.

    Attributes:
        solver: of the eigenvalues.
        kind: of the operator.
        probe: a number of samples, ``batch``, ``train``, ``val``; None is the datamodule's or our choice.
        blocks: patterns of parameters whose diagonal blocks are measured too.
        warm_start: begin with the last vectors.
        density_probes: of a spectral density; 0 makes none.
        density_every: measurements between two.
        density_steps: products for each probe.
        trace_probes: products spent on an estimate of the trace.
        micro_batch_size: samples at a time.
        mode: of the module's layers.
        seed: of the probe, the starts and the masks.
        progress: whether a long measurement shows a bar; None is as the trainer does.
    """

    solver: Solver
    kind: Kind = "hessian"
    probe: Which | Literal["batch"] | None = None
    blocks: Sequence[str] = ()
    warm_start: bool = True
    density_probes: int = 0
    density_every: int = 1
    density_steps: int = 30
    trace_probes: int = 0
    micro_batch_size: int | None = None
    mode: Literal["eval", "train"] = "eval"
    seed: int = 0
    progress: bool | None = None
    samples: float = 0.0
    digest: str | None = None
    count: int = 0
    cold: tuple[int, int] = (0, 0)  # measurement and step of the last cold start
    vectors: dict[str, Tensor] = field(default_factory=dict)
    drawn: Probe | None = None
    failure: Exception | None = None  # of the drawing
    checks: bool = False
    probed: list[Any] = field(default_factory=list)  # data sets that are read

    def __post_init__(self) -> None:
        """Refuse what cannot be measured anywhere.

        Raises:
            UsageError: a setting out of range.
        """
        one_of("operator", self.kind, get_args(Kind))
        one_of("mode", self.mode, ("eval", "train"))
        if isinstance(self.probe, str):
            one_of("probe", self.probe, ("batch", "train", "val"))
        else:
            whole_number("probe", self.probe, 1, optional=True)
        whole_number("density_every", self.density_every, 1)
        whole_number("micro_batch_size", self.micro_batch_size, 1, optional=True)
        for setting in ("trace_probes", "density_probes"):
            whole_number(setting, getattr(self, setting), 0)
        whole_number("density_steps", self.density_steps, 2)
        if 0 < self.trace_probes < 4:
            raise UsageError(f"{WHO} got trace_probes {self.trace_probes}; expected 0 for none, or 4 or more.")
        if isinstance(self.blocks, str):
            raise UsageError(f"{WHO} got blocks {self.blocks!r}; expected a list.\nwrite:    blocks: [{self.blocks}]")

    def forget(self) -> None:
        """Begin again, with another module."""
        self.count, self.cold, self.digest, self.drawn = 0, (0, 0), None, None
        self.vectors, self.probed, self.failure = {}, [], None

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse what can never be measured.

        Args:
            trainer: Lightning's, with its optimizers.
            module: anyone's.

        Raises:
            UsageError: what is in the way.
        """
        reducer(trainer)
        training_loss(module)
        blocks(module, self.blocks)
        if self.kind == "preconditioned":
            preconditioner(trainer.optimizers, list(trainable(module).values()))

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Choose the samples, once for all measurements; if that fails, so do these.

        Args:
            trainer: with its loaders.
            module: whose hooks move batches.

        Raises:
            UsageError: a probe that there cannot be.
        """
        if self.probe == "batch":
            return
        self.probed = sources(trainer)
        with undisturbed(module, self.mode, self.seed, self.probed):
            try:
                self.drawn, own, self.digest = agreed(trainer, lambda: self._drawn(trainer, module))
            except UsageError:
                raise
            except Exception as error:  # a measurement's failure, which shall not stop the training
                self.failure = error
                return
            reduce = reducer(trainer)
            total = torch.tensor(own, device=module.device)
            self.samples = float(total if reduce is None else reduce(total))

    def _drawn(self, trainer: Trainer, module: LightningModule) -> tuple[Probe, float, str]:
        which = None if self.probe == "batch" else self.probe
        probe, count = draw(trainer, which, self.micro_batch_size, self.seed), sample_counter(module)
        batches = probe.on_device(trainer)
        return probe, float(sum(count(batch) for batch in batches)), digest(batches)

    def _batches(self, trainer: Trainer, batch: Any) -> Iterable[Any]:
        if self.failure is not None:
            raise self.failure
        if self.drawn is not None:
            return agreed(trainer, lambda: self.drawn.on_device(trainer) if self.drawn else [])
        return [batch] if self.micro_batch_size is None else [piece for _, piece in micro_batches(batch, self.micro_batch_size)]

    def __call__(self, trainer: Trainer, module: LightningModule, batch: Any = None) -> Reading:
        """Measure.

        Args:
            trainer: Lightning's.
            module: anyone's.
            batch: at hand, where that is the probe.

        Returns:
            What was found.
        """
        self.count += 1
        step, (measurement, cold_step) = trainer.global_step, self.cold
        self.checks = self.count >= measurement + COLD_EVERY or step >= COLD_GROWTH * max(cold_step, 1)
        if self.checks or not self.vectors:
            self.cold = (self.count, step)
        with undisturbed(module, self.mode, self.seed, self.probed):
            params = trainable(module)
            batches = self._batches(trainer, batch)
            metrics, operator = self._eigenvalues("", trainer, module, params, batches)
            if operator is None:
                return Reading({}, None)
            metrics |= against(trainer.optimizers, metrics, self.kind)
            with operator.held():
                metrics, density = self._whole_spectrum(operator, metrics)
            del operator  # and its graph, before those of the blocks
            for pattern in self.blocks:
                metrics |= {f"{plain(pattern)}/{name}": value for name, value in self._block(pattern, trainer, module, batches)}
            return Reading(metrics, density)

    def _block(self, pattern: str, trainer: Trainer, module: LightningModule, batches: Iterable[Any]) -> list[tuple[str, float]]:
        try:
            chosen = blocks(module, [pattern])[pattern]
        except UsageError:  # its layers have been frozen since
            return [("lambda_max", float("nan")), ("converged", 0.0)]
        found, _ = self._eigenvalues(pattern, trainer, module, chosen, batches)
        return [(name, value) for name, value in found.items() if name != "loss"]

    def _whole_spectrum(
        self, operator: LinearOperator, metrics: dict[str, float]
    ) -> tuple[dict[str, float], SpectralDensity | None]:
        density = None
        if self.trace_probes:
            # Hutchinson's keeps no vectors.
            method: Literal["xtrace", "hutchinson"] = "xtrace" if operator.size <= LARGE else "hutchinson"
            estimate = trace(operator, method, self.trace_probes, self.seed)
            metrics |= {"trace": estimate.value, "trace_standard_error": estimate.standard_error or 0.0}
            metrics["hvps"] += estimate.matvecs
        if self.density_probes and (self.count - 1) % self.density_every == 0:
            density = spectral_density(operator, self.density_probes, self.density_steps, seed=self.seed)
            metrics["hvps"] += density.matvecs
        return metrics, density

    def _eigenvalues(
        self, block: str, trainer: Trainer, module: LightningModule, params: Mapping[str, Tensor], batches: Iterable[Any]
    ) -> tuple[dict[str, float], LinearOperator | None]:
        operator = curvature_operator(self.kind, module, params, batches, trainer)
        if operator is None:
            return {}, None
        operator = self._watched(operator, trainer)
        old = self.vectors.get(block) if self.warm_start else None
        if old is not None and len(old) != operator.size:  # layers were frozen or thawed
            old = None
        spectrum = measure(operator, params, self.solver, old, self.seed + self.count, self.checks)
        self.vectors[block] = spectrum.eigen.eigenvectors.detach().cpu()
        surprise = {} if spectrum.surprise is None else {"surprise": spectrum.surprise}
        return spectrum.metrics | surprise | ({} if block else layer_metrics(spectrum.shares)), operator

    def _watched(self, operator: LinearOperator, trainer: Trainer) -> LinearOperator:
        shown = trainer.progress_bar_callback is not None if self.progress is None else self.progress
        return Watched(operator) if shown and trainer.is_global_zero else operator

    def title(self, module: LightningModule) -> str:
        """Say what is measured, for figures.

        Args:
            module: anyone's.

        Returns:
            One line.
        """
        size = sum(p.numel() for p in trainable(module).values())
        data = "each batch" if self.probe == "batch" else f"{self.samples:,g} samples"
        return f"{type(module).__name__}, {self.kind}: {size:,} parameters, {data}, residual {self.solver.tol:g}"

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps, so that a resumed run goes on with the same numbers.

        Returns:
            Plain values and tensors.
        """
        return {"count": self.count, "cold": self.cold, "vectors": dict(self.vectors), "digest": self.digest}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what a checkpoint kept.

        Args:
            state: of :meth:`state`.
        """
        self.count, self.cold, self.digest = state["count"], tuple(state["cold"]), state["digest"]
        self.vectors = dict(state["vectors"])
