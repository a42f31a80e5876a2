"""LightningModules: losses, penalties and metrics put together; no mathematics of their own."""

from gradgrad.modules.gradient_norm_regressor import GradientNormRegressor

__all__ = ["GradientNormRegressor"]
