"""Callbacks: they look, and never touch the training."""

from gradgrad.callbacks.adaptation_curve import AdaptationCurve
from gradgrad.callbacks.adapted_model import AdaptedModel
from gradgrad.callbacks.predictions import Predictions

__all__ = ["AdaptationCurve", "AdaptedModel", "Predictions"]
