"""The curvature of the training loss, while it is trained on."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from gradgrad.callbacks.spectrum_history import Density, SpectrumHistory
from gradgrad.callbacks.spectrum_record import record, record_failure, record_probe
from gradgrad.curvature.checked import metric_prefix, one_of, whole_number
from gradgrad.curvature.measurement import Solver, Which
from gradgrad.curvature.operator import Kind
from gradgrad.curvature.schedule import due
from gradgrad.curvature.spectrometer import Spectrometer
from gradgrad.errors import UsageError

DENSITY_PROBES = 10  # each of 30 products: 300 in all, a guess


class HessianSpectrum(Callback):
    r"""Measure the outermost eigenvalues of the Hessian of the training loss, to a stated residual.

    **Of which function.** ``loss(batch)`` of the module, else its ``training_step``; on the same samples each time (``probe``);
    in evaluation mode (``mode: train`` measures with batch statistics and one fixed dropout mask); with respect to the trainable
    parameters; in full precision. Training with it is training without it, to the last bit.

    **What is logged**, as ``hessian/<name>`` (``ggn/``, ``preconditioned/``), at the number of optimizer steps done:
    ``lambda_max`` (the sharpness) or ``lambda_min``; if k > 1 ``lambda_<i>`` from above, ``lambda_min_<i>`` from below;
    ``residual`` (the largest relative one, :math:`|Hv - \lambda v| / |\lambda|`), ``converged`` (1 if all are within ``tol``),
    ``hvps``, ``seconds``; ``loss``, ``gradient_norm`` and ``gradient_overlap`` (share of the squared gradient in the span of the
    eigenvectors) on the probe; ``share/<layer>`` of the top eigenvector; ``sharpness_times_lr``, and where the optimizer has one
    the largest curvature that it is stable for as ``threshold``, with ``sharpness_over_threshold``; ``trace`` with
    ``trace_standard_error``; ``<block>/...``; after a check against lock-in ``surprise``, by how much a cold start beat the warm
    one. Eigenvalues are in units of the loss per squared parameter. At the end the run gets ``spectrum.csv``, ``densities.npz``
    and figures under ``hessian/``.

    Args:
        k: number of eigenvalues; of each end for ``which: BE``.
        every_n_steps: optimizer steps between measurements.
        every_n_epochs: or epochs.
        schedule: used without these two: 5 measurements to a factor of ten in steps. There is always one before the first
            step and one after the last.
        operator: ``hessian``; ``ggn``, the Gauss-Newton matrix; ``preconditioned``, the Hessian as Adam and its like see it.
        which: ``LA`` the largest, ``SA`` the smallest, ``LM`` the largest in magnitude, ``BE`` both ends.
        method: ``lanczos`` or ``power_iteration``.
        tol: relative residual; an eigenvalue's own error is of the order of its square. A cold start goes on to 1e-3.
        max_hvps: products in a measurement, after which it is logged as not converged.
        warm_start: begin with the last eigenvectors, mixed with 0.3 of something random; every 20th time, and each time that the
            steps have grown tenfold, cold too.
        probe: a number of training samples; ``batch``, the one at hand; ``train`` or ``val``, all; null is the datamodule's own
            choice (one meta-batch of tasks) or 256, a guess.
        blocks: names of parameters, as globs, whose diagonal blocks are measured too.
        density_every: measurements between spectral densities (10 probes of 30 products each, a guess).
        trace_probes: products spent on an estimate of the trace.
        block_size: products made together, in one pass over the data; of equal eigenvalues no more are sure to be found.
        micro_batch_size: samples at a time: bounds memory, and each product then builds its graphs anew; null is twice the
            loader's own, more if they are small. The loss is to be a mean over samples, or over what ``sample_count`` says.
        basis_size: most vectors kept; null is Lanczos' own choice, fewer for networks beyond a million parameters.
        mode: ``eval`` or ``train``.
        on_error: ``nan`` logs NaN and says why, once; ``raise`` stops the training.
        seed: of the probe, the starts and the masks.
        name: prefix of the metrics; null is the operator's.

    Raises:
        UsageError: a setting out of range, or two schedules.
    """

    def __init__(
        self,
        k: int = 1,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        schedule: Literal["log"] = "log",
        operator: Kind = "hessian",
        which: Which = "LA",
        method: Literal["lanczos", "power_iteration"] = "lanczos",
        tol: float = 1e-2,
        max_hvps: int = 50,
        warm_start: bool = True,
        probe: int | Literal["batch", "train", "val"] | None = None,
        blocks: Sequence[str] = (),
        density_every: int | None = None,
        trace_probes: int = 0,
        block_size: int = 1,
        micro_batch_size: int | None = None,
        basis_size: int | None = None,
        mode: Literal["eval", "train"] = "eval",
        on_error: Literal["nan", "raise"] = "nan",
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        whole_number("every_n_steps", every_n_steps, 1, optional=True)
        whole_number("every_n_epochs", every_n_epochs, 1, optional=True)
        one_of("schedule", schedule, ("log",))
        one_of("on_error", on_error, ("nan", "raise"))
        if every_n_steps and every_n_epochs:
            raise UsageError(
                f"HessianSpectrum got every_n_steps {every_n_steps} and every_n_epochs {every_n_epochs}; expected one at most."
            )
        if every_n_epochs and probe == "batch":
            raise UsageError("HessianSpectrum got probe batch with every_n_epochs; expected every_n_steps: epochs have no batch.")
        metric_prefix(name)
        solver = Solver(k, which, method, tol, max_hvps, block_size, basis_size, seed)
        self.spectrometer = Spectrometer(
            solver,
            operator,
            probe,
            blocks,
            warm_start,
            0 if density_every is None else DENSITY_PROBES,
            1 if density_every is None else density_every,
            trace_probes=trace_probes,
            micro_batch_size=micro_batch_size,
            mode=mode,
            seed=seed,
        )
        self.every_n_steps, self.every_n_epochs, self.on_error = every_n_steps, every_n_epochs, on_error
        self.name = name or operator
        self.history = SpectrumHistory()
        self._previous: int | None = None
        self._complained = False

    @property
    def state_key(self) -> str:
        """What tells several of these apart in a checkpoint."""
        return f"HessianSpectrum({self.name})"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget another fit; a checkpoint's state comes later.

        Args:
            trainer: unused.
            pl_module: unused.
            stage: Lightning's.
        """
        if stage == "fit":
            self.history, self._previous, self._complained = SpectrumHistory(), None, False
            self.spectrometer.forget()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what can never be measured.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        self.spectrometer.check(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the probe, and measure before the first step.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        record_probe(trainer, pl_module, self.spectrometer, self.name)
        if self._previous is None and not self._by_batch:
            self._measure(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure before the first step, where the first batch is the probe.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
            batch: at hand.
            batch_idx: unused.
        """
        if self._by_batch and self._previous is None:
            self._measure(trainer, pl_module, batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure where a step of the schedule has been reached.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
            outputs: unused.
            batch: at hand.
            batch_idx: unused.
        """
        if self.every_n_epochs is None and due(trainer.global_step, self._previous, self.every_n_steps):
            self._measure(trainer, pl_module, batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure where an epoch of the schedule is over.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0 and not self._by_batch:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure after the last step, and hand in tables and figures.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        if not self._by_batch and self._previous != trainer.global_step:
            self._measure(trainer, pl_module)
        record(trainer, self.history, self.name, self.spectrometer.title(pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Hand in what there is.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
            exception: unused.
        """
        record(trainer, self.history, self.name, self.spectrometer.title(pl_module))

    @property
    def _by_batch(self) -> bool:
        return self.spectrometer.probe == "batch"

    def _measure(self, trainer: Trainer, module: LightningModule, batch: Any = None) -> None:
        step, started = trainer.global_step, time.perf_counter()
        self._previous = step
        try:
            metrics, density = self.spectrometer(trainer, module, batch)
        except Exception as error:
            if self.on_error == "raise":
                raise
            metrics, density = {"lambda_max": float("nan"), "converged": 0.0}, None
            if not self._complained:
                record_failure(trainer, error, self.name)
            self._complained = True
        if not metrics:
            return
        metrics["seconds"] = time.perf_counter() - started
        self.history.add(step, metrics)
        if density is not None:
            self.history.densities.append(Density(step, density.grid, density.density, density.nodes, density.weights))
        for logger in trainer.loggers:
            logger.log_metrics({f"{self.name}/{key}": value for key, value in metrics.items()}, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Keep vectors and measurements, so that a resumed run goes on with the same numbers.

        Returns:
            Plain values and tensors; k numbers for each parameter.
        """
        return {"previous": self._previous, "spectrometer": self.spectrometer.state(), "history": self.history.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on.

        Args:
            state_dict: of :meth:`state_dict`.
        """
        self._previous = state_dict["previous"]
        self.spectrometer.restore(state_dict["spectrometer"])
        self.history.restore(state_dict["history"])
