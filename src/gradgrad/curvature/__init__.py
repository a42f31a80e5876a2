"""The curvature of a LightningModule's training loss: which function, on which samples, and without a trace."""

from gradgrad.curvature.measurement import Solver
from gradgrad.curvature.probe import Probe, draw
from gradgrad.curvature.spectrometer import Reading, Spectrometer
from gradgrad.curvature.stability import stability_threshold
from gradgrad.curvature.training_loss import training_loss
from gradgrad.curvature.undisturbed import undisturbed

__all__ = ["Probe", "Reading", "Solver", "Spectrometer", "draw", "stability_threshold", "training_loss", "undisturbed"]
