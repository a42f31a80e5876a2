"""Callbacks: they look, and never touch the training."""

from gradgrad.callbacks.predictions import Predictions

__all__ = ["Predictions"]
