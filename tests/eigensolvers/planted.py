"""Operators whose spectrum is known because it was planted."""

import torch

from gradgrad.derivatives import DenseOperator
from gradgrad.derivatives.operators import LinearOperator

EPS = torch.finfo(torch.float64).eps

SPECTRA = {
    "separated": [8.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.01],
    "indefinite": [6.0, 4.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -5.0, -7.0],
    "negative": [-0.5, -1.0, -2.0, -3.0, -5.0, -6.0, -7.0, -8.0, -9.0, -10.0],
    "opposite": [10.0, 5.0, 2.0, 1.0, 0.5, -0.5, -1.0, -2.0, -5.0, -10.0],
    "cluster": [4.01, 4.005, 4.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    "multiple": [3.0, 3.0, 3.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5],
    "rank deficient": [5.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "one": [2.0] * 10,
    "zero": [0.0] * 10,
    "tiny": [1e-30, 5e-31, 1e-31, 1e-32, 0.0, 0.0, 0.0, 0.0, 0.0, -2e-31],
    "huge": [1e30, 5e29, 1e29, 1e28, 0.0, 0.0, 0.0, 0.0, 0.0, -3e30],
}


def rotation(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def matrix(values, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    q = rotation(len(values), seed)
    half = (q * values) @ q.T
    return (half + half.T) / 2


def operator(values, dtype=torch.float64, seed=0):
    return DenseOperator(matrix(values, seed).to(dtype))


def outliers(size=200, seed=1):
    """A spectrum like a network's: a few large values, a bulk around zero."""
    bulk = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1
    bulk[:6] = torch.tensor([9.0, 7.0, 5.0, 4.0, 3.0, -6.0], dtype=torch.float64)
    return bulk.sort(descending=True).values


def crowded(size=60):
    """Evenly spaced, and so hard: no end stands out."""
    return torch.linspace(1, -1, size, dtype=torch.float64)


def wanted(values, k, which):
    """Which eigenvalues are meant, descending, by sorting all of them."""
    values = sorted((float(value) for value in values), reverse=True)
    if which == "LM":
        values = sorted(values, key=abs, reverse=True)[:k]
    elif which == "BE":
        values = values[: (k + 1) // 2] + values[len(values) - k // 2 :]
    else:
        values = values[:k] if which == "LA" else values[-k:]
    return torch.tensor(sorted(values, reverse=True), dtype=torch.float64)


def true_residuals(dense, result):
    """Relative residuals from the matrix itself, in float64."""
    v = result.eigenvectors.double()
    norms = (dense @ v - v * result.eigenvalues).norm(dim=0)
    largest = torch.linalg.eigvalsh(dense).abs().max()
    against = result.eigenvalues.abs().clamp_min(torch.finfo(result.eigenvectors.dtype).eps ** 0.5 * largest)
    return torch.where(norms == 0, 0.0, norms / against)


class Broken(LinearOperator):
    """An operator that goes wrong at one of its products."""

    def __init__(self, dense, at, wrong):
        self.dense, self.at, self.wrong, self.count = dense, at, wrong, 0
        self.size, self.dtype, self.device = len(dense), dense.dtype, dense.device

    def _matmat(self, vectors):
        self.count += 1
        product = self.dense @ vectors
        return self.wrong(product) if self.count == self.at else product


class Recorded(LinearOperator):
    """An operator that remembers how many vectors came at a time."""

    def __init__(self, dense):
        self.dense, self.blocks = dense, []
        self.size, self.dtype, self.device = len(dense), dense.dtype, dense.device

    def _matmat(self, vectors):
        self.blocks.append(vectors.shape[1])
        return self.dense @ vectors
