"""Derivatives of derivatives: pure functions and linear maps on tensors."""

from gradgrad.derivatives.double_backward import double_backward
from gradgrad.derivatives.hessian import GGNOperator, HessianOperator
from gradgrad.derivatives.laplacian import laplacian
from gradgrad.derivatives.nth import derivatives, directional_derivative, nth_derivative
from gradgrad.derivatives.operators import DenseOperator, LinearOperator, ScaledOperator
from gradgrad.derivatives.products import ggn_product, gradient, hvp, jvp, vjp
from gradgrad.derivatives.taylor import taylor

__all__ = [
    "DenseOperator",
    "GGNOperator",
    "HessianOperator",
    "LinearOperator",
    "ScaledOperator",
    "derivatives",
    "directional_derivative",
    "double_backward",
    "ggn_product",
    "gradient",
    "hvp",
    "jvp",
    "laplacian",
    "nth_derivative",
    "taylor",
    "vjp",
]
