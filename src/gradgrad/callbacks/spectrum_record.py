"""Put what was measured into the tracked run."""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from gradgrad.callbacks.spectrum_figures import density_figure, eigenvalues_figure, shares_figure
from gradgrad.callbacks.spectrum_history import SpectrumHistory
from gradgrad.curvature.spectrometer import Spectrometer
from gradgrad.tracking.recorder import tracked_logger


def record(trainer: Trainer, history: SpectrumHistory, name: str, title: str) -> None:
    """Store tables and figures as artifacts, in the folder ``name``.

    Args:
        trainer: Lightning's.
        history: all measurements of the run.
        name: of the folder.
        title: over the figures.
    """
    logger = tracked_logger(trainer.loggers)
    if logger is None or not history.rows or not trainer.is_global_zero:
        return
    logger.run.log_text(history.table(), f"{name}/spectrum.csv")
    if max(len(history.column(edge)[0]) for edge in ("lambda_max", "lambda_min")) > 1:
        logger.run.log_figure(eigenvalues_figure(history, title), f"{name}/eigenvalues.png")
    if len(history.rows) > 1 and history.names("share/"):
        logger.run.log_figure(shares_figure(history, title), f"{name}/shares.png")
    if history.densities:
        last = history.densities[-1]
        logger.run.log_figure(density_figure(last, f"{title}\nstep {last.step}"), f"{name}/density.png")
        with TemporaryDirectory() as temporary:
            file = Path(temporary) / "densities.npz"
            file.write_bytes(history.density_file())
            logger.run.log_file(file, name)


def record_probe(trainer: Trainer, module: LightningModule, spectrometer: Spectrometer, name: str) -> None:
    """Draw the probe, and tell the run which samples are measured on.

    Args:
        trainer: Lightning's.
        module: to be measured.
        spectrometer: draws.
        name: prefix of the tags.
    """
    before = spectrometer.digest
    spectrometer.draw(trainer, module)
    digest, samples = spectrometer.digest, f"{spectrometer.samples:g}"
    if before not in (None, digest):
        rank_zero_warn(f"HessianSpectrum: the probe is another than before the checkpoint ({digest} after {before})")
    logger = tracked_logger(trainer.loggers)
    if logger is not None and trainer.is_global_zero and digest:
        logger.run.log_tags({f"{name}.probe_samples": samples, f"{name}.probe_digest": digest})


def record_failure(trainer: Trainer, error: Exception, name: str) -> None:
    """Say why there is no number.

    Args:
        trainer: Lightning's.
        error: the reason.
        name: prefix of the tag.
    """
    reason = f"{type(error).__name__}: {error}"
    who = "HessianSpectrum" if trainer.world_size == 1 else f"HessianSpectrum on rank {trainer.global_rank}"
    warnings.warn(f"{who} could not measure at step {trainer.global_step}, and logs NaN: {reason}", stacklevel=2)
    logger = tracked_logger(trainer.loggers)
    if logger is not None and trainer.is_global_zero:
        logger.run.log_tags({f"{name}.error": reason})
