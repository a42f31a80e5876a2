"""Eigenvalues, densities, traces and diagonals of linear operators, from products alone."""

from gradgrad.eigensolvers.lanczos import lanczos
from gradgrad.eigensolvers.result import EigenResult

__all__ = ["EigenResult", "lanczos"]
