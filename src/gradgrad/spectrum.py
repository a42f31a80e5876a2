"""The verb ``spectrum``: the curvature of a checkpoint, at report accuracy."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table

from gradgrad.callbacks.spectrum_history import Density, SpectrumHistory
from gradgrad.callbacks.spectrum_record import record, record_probe
from gradgrad.curvature.measurement import Solver, Which
from gradgrad.curvature.operator import Kind
from gradgrad.curvature.spectrometer import Spectrometer
from gradgrad.errors import UsageError
from gradgrad.tracking.recorder import RunRecorder, tracked_logger


def report_name(name: str | None, operator: Kind, checkpoint: str) -> str:
    """Name a report: the prefix of its metrics and tags, and the folder of its files.

    Args:
        name: the user's own.
        operator: what is measured.
        checkpoint: ``best``, ``last``, ``file`` or ``untrained``.

    Returns:
        ``spectrum_<name>``; without a name ``spectrum``, with what is not the Hessian of the best checkpoint:
        ``spectrum_ggn``, ``spectrum_last``, ``spectrum_ggn_last``.

    Raises:
        UsageError: a name that is no folder's.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
        raise UsageError(f"spectrum got name {name!r}; expected letters, digits, _ and -, such as second.")
    words = [word for word in (operator, checkpoint) if word not in ("hessian", "best")] if name is None else [name]
    return "_".join(["spectrum", *words])


class SpectrumTrainer(Trainer):
    """Lightning's trainer, with one verb more.

    Attributes:
        alias: ``best`` or ``last`` where a checkpoint was asked for by that word, before it was a file.
    """

    alias: str | None = None

    def spectrum(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        k: int = 5,
        which: Which = "BE",
        operator: Kind = "hessian",
        tol: float = 1e-3,
        max_hvps: int = 1000,
        probe: int | Literal["train", "val"] | None = None,
        density_probes: int = 5,
        density_steps: int = 60,
        trace_probes: int = 60,
        block_size: int = 1,
        micro_batch_size: int | None = None,
        basis_size: int | None = None,
        mode: Literal["eval", "train"] = "eval",
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        """Measure the curvature of the training loss at a checkpoint, and log it into the checkpoint's run.

        Everything is set up as for a fit that goes on from the checkpoint, which then ends before its first step.

        Args:
            model: to be measured.
            datamodule: of the run.
            ckpt_path: ``best``, ``last`` or a file; without one the weights are untrained.
            k: number of eigenvalues; of each end for ``BE``.
            which: LA the largest, SA the smallest, LM the largest in magnitude, BE both ends.
            operator: ``hessian``, ``ggn`` or ``preconditioned``.
            tol: relative residual; 1e-3 is for reports.
            max_hvps: products for the eigenvalues; 1000 is a guess.
            probe: ``train`` or ``val``, all of a part, or a number of training samples; null is the training part, or the
                datamodule's choice (one meta-batch of tasks, which have no end).
            density_probes: random vectors of the spectral density; 0 makes none; 5 is a guess.
            density_steps: products for each; 60 is a guess.
            trace_probes: products spent on the trace; 60 is a guess; 0 for none.
            block_size: products made together, in one pass over the data; of equal eigenvalues no more are sure to be found.
            micro_batch_size: samples at a time, which bounds memory; null is as many as the loader takes, more if they are small.
            basis_size: most vectors kept; null is Lanczos' own choice.
            mode: ``eval`` or ``train``, of the module's layers.
            seed: of starts, probes and masks.
            name: metrics and files go to ``spectrum_<name>/``; null is ``spectrum/`` for the Hessian of the best checkpoint, and
                else says what is different (``spectrum_ggn_last/``). A later report of the same name replaces the earlier one.
        """
        with _as_options():
            name = report_name(name, operator, self.alias or ("file" if ckpt_path else "untrained"))
            solver = Solver(k, which, "lanczos", tol, max_hvps, block_size, basis_size, seed)
            spectrometer = Spectrometer(
                solver,
                operator,
                "train" if probe is None and not hasattr(datamodule, "probe_batches") else probe,
                density_probes=density_probes,
                density_steps=density_steps,
                trace_probes=trace_probes,
                micro_batch_size=micro_batch_size,
                mode=mode,
                seed=seed,
                progress=self.progress_bar_callback is not None,
            )
        recorders = [callback for callback in self.callbacks if isinstance(callback, RunRecorder)]
        self.callbacks: list[Callback] = [*recorders, SpectrumReport(spectrometer, name)]
        # However far the run had come: the fit is set up, and stopped before a step.
        self.fit_loop.max_epochs, self.fit_loop.epoch_loop.max_steps = -1, -1
        self.fit_loop.min_epochs, self.fit_loop.epoch_loop.min_steps = None, None
        self.num_sanity_val_steps = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")  # the callbacks are left out on purpose
            self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)


class SpectrumReport(Callback):
    """Measure once, before a first step that never comes.

    Args:
        spectrometer: what measures.
        name: of the report.
    """

    def __init__(self, spectrometer: Spectrometer, name: str) -> None:
        self.spectrometer, self.name = spectrometer, name

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        self.spectrometer.check(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, log and stop.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        trainer.should_stop = True
        meter, step = self.spectrometer, trainer.global_step
        record_probe(trainer, pl_module, meter, self.name)
        metrics, density = meter(trainer, pl_module)
        metrics |= {"samples": meter.samples, "step": float(step)}
        for logger in trainer.loggers:
            logger.log_metrics({f"{self.name}/{key}": value for key, value in metrics.items()}, step=0)
        if trainer.is_global_zero:
            title = f"{self.name}: {meter.kind} at step {step}, {meter.samples:g} samples"
            Console(soft_wrap=True).print(_table(metrics, title))
        history = SpectrumHistory()
        history.add(step, metrics)
        if density is not None:
            history.densities.append(Density(step, density.grid, density.density, density.nodes, density.weights))
        self._make_room(trainer)
        record(trainer, history, self.name, meter.title(pl_module))

    def _make_room(self, trainer: Trainer) -> None:
        logger = tracked_logger(trainer.loggers)
        if logger is not None and trainer.is_global_zero and logger.run.remove_artifacts(self.name):
            rank_zero_info(f"{self.name}/ of an earlier report in this run is replaced; --name <another> keeps both")


@contextmanager
def _as_options() -> Iterator[None]:
    """Name a setting as the verb's option."""
    try:
        yield
    except UsageError as error:
        raise UsageError(re.sub(r"^\w+ got ", "got --", str(error))) from error


def _table(metrics: dict[str, float], title: str) -> Table:
    table = Table("value", "", title=title, title_justify="left")
    for name, value in metrics.items():
        if not name.startswith("share/"):
            table.add_row(name, f"{value:.6g}")
    return table
