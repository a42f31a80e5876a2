"""Eigenvalues, densities, traces and diagonals of linear operators, from products alone."""

from gradgrad.eigensolvers.diagonal import DiagonalEstimate, diagonal
from gradgrad.eigensolvers.lanczos import lanczos
from gradgrad.eigensolvers.power_iteration import power_iteration
from gradgrad.eigensolvers.result import EigenResult
from gradgrad.eigensolvers.spectral_density import SpectralDensity, spectral_density
from gradgrad.eigensolvers.trace import TraceEstimate, trace

__all__ = [
    "DiagonalEstimate",
    "EigenResult",
    "SpectralDensity",
    "TraceEstimate",
    "diagonal",
    "lanczos",
    "power_iteration",
    "spectral_density",
    "trace",
]
