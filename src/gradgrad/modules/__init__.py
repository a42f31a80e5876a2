"""LightningModules; they hold no mathematics of their own."""

from gradgrad.modules.gradient_norm_regressor import GradientNormRegressor
from gradgrad.modules.maml import MAML

__all__ = ["MAML", "GradientNormRegressor"]
