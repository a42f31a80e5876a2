"""Put what was measured into the tracked run."""

from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch import Trainer

from gradgrad.callbacks.spectrum_figures import density_figure, eigenvalues_figure, shares_figure
from gradgrad.callbacks.spectrum_history import SpectrumHistory
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
            logger.run.client.log_artifact(logger.run.id, str(file), name)
