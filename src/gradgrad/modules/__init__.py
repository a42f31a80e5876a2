"""LightningModules; they hold no mathematics of their own."""

from gradgrad.modules.gradient_norm_regressor import GradientNormRegressor
from gradgrad.modules.half_squared_error import HalfSquaredError
from gradgrad.modules.maml import MAML
from gradgrad.modules.plain_learner import PlainLearner

__all__ = ["MAML", "GradientNormRegressor", "HalfSquaredError", "PlainLearner"]
