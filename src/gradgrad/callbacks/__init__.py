"""Callbacks: they look, and never touch the training."""

from gradgrad.callbacks.adaptation_curve import AdaptationCurve
from gradgrad.callbacks.adapted_model import AdaptedModel
from gradgrad.callbacks.hessian_spectrum import HessianSpectrum
from gradgrad.callbacks.last_checkpoint import LastCheckpoint
from gradgrad.callbacks.predictions import Predictions
from gradgrad.callbacks.resumable import Resumable
from gradgrad.callbacks.system_metrics import SystemMetrics

__all__ = ["AdaptationCurve", "AdaptedModel", "HessianSpectrum", "LastCheckpoint", "Predictions", "Resumable", "SystemMetrics"]
