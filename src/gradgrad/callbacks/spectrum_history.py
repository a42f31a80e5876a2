"""All measurements of a run, as numbers: for its figures, its tables, and a run that goes on from a checkpoint."""

import io
import math
from typing import Any, NamedTuple

import torch


class Density(NamedTuple):
    """A spectral density at one step.

    Attributes:
        step: optimizer steps done.
        grid: eigenvalues, shape ``(G,)``.
        density: per unit of eigenvalue, shape ``(G,)``.
        nodes: of the quadrature, one row for each probe.
        weights: of the nodes, each row sums to 1.
    """

    step: int
    grid: torch.Tensor
    density: torch.Tensor
    nodes: torch.Tensor
    weights: torch.Tensor


class SpectrumHistory:
    """Rows of metrics by step, and densities."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.densities: list[Density] = []

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Append a measurement.

        Args:
            step: optimizer steps done.
            metrics: by name, without prefix.
        """
        self.rows.append({"step": float(step), **metrics})

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Pick one metric.

        Args:
            name: without prefix.

        Returns:
            Steps at which it was measured, and its values.
        """
        there = [row for row in self.rows if not math.isnan(row.get(name, math.nan))]
        return [row["step"] for row in there], [row[name] for row in there]

    def names(self, prefix: str = "") -> list[str]:
        """List the metrics.

        Args:
            prefix: of those that are wanted.

        Returns:
            Names in order of appearance.
        """
        return [name for name in dict.fromkeys(name for row in self.rows for name in row) if name.startswith(prefix)]

    def table(self) -> str:
        """Write all rows.

        Returns:
            CSV with a row per measurement and a column per metric, every digit; empty where one was not measured.
        """
        import pandas as pd

        return pd.DataFrame(self.rows, columns=self.names()).to_csv(index=False)

    def density_file(self) -> bytes:
        """Write all densities.

        Returns:
            NumPy's ``.npz`` with ``step``, and ``grid_<i>``, ``density_<i>``, ``nodes_<i>``, ``weights_<i>`` for each.
        """
        import numpy as np

        arrays: dict[str, Any] = {"step": np.array([density.step for density in self.densities])}
        for i, density in enumerate(self.densities):
            arrays |= {f"{name}_{i}": value.numpy() for name, value in density._asdict().items() if name != "step"}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps.

        Returns:
            Plain values and tensors.
        """
        return {"rows": [dict(row) for row in self.rows], "densities": [tuple(density) for density in self.densities]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what a checkpoint kept.

        Args:
            state: of :meth:`state`.
        """
        self.rows = [dict(row) for row in state["rows"]]
        self.densities = [Density(*density) for density in state["densities"]]
