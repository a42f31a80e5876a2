"""Sinusoids to be told from a few points: the regression tasks of Finn et al. 2017."""

import math
from collections.abc import Iterable
from typing import Any

import torch

from gradgrad.batches import TaskBatch, TaskShape
from gradgrad.datamodules.streams import uniforms
from gradgrad.datamodules.task_data import Split, TaskData
from gradgrad.errors import UsageError


class SinusoidTasks(TaskData):
    r"""Regress :math:`y = A \sin(\omega x - \varphi) + \sigma \varepsilon` from a few points [Finn et al. 2017, ICML].

    Amplitude, phase, frequency and inputs are uniform, :math:`\varepsilon` is standard normal. All numbers are without unit;
    computed in float64, given in torch's default dtype. Support and queries: ``(T, shots, 1)``, ``(T, queries, 1)``; evaluation
    queries are noiseless, and on a grid that all tasks share, shape ``(T, grid, 1)``.

    Args:
        shots: support points K; 10 is the larger of Finn et al.'s 5 and 10.
        queries: training query points; None means as many as shots, as in their code.
        amplitude: range of A; [0.1, 5] is theirs. Some copies have [0.1, 0.5]: their losses are 100 times smaller.
        phase: range of the phase in radian; [0, pi] is theirs.
        x_range: range of the inputs; [-5, 5] is theirs.
        frequency: range of the angular frequency; None means 1, as theirs. Meta-SGD [Li et al. 2017] has [0.8, 1.2].
        noise: standard deviation of the noise on y; 0 as theirs.
        grid: evaluation queries per task, evenly over ``x_range``, ends included; 100 is that of CAVIA [Zintgraf et al. 2019].
            0 draws ``queries`` random ones instead, as Finn et al. did.
        task_options: of :class:`gradgrad.datamodules.task_data.TaskData`.

    Raises:
        UsageError: a size is too small, or a range is upside down.
    """

    name = "sinusoid"
    source = "generated"

    def __init__(
        self,
        shots: int = 10,
        queries: int | None = None,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        x_range: tuple[float, float] = (-5.0, 5.0),
        frequency: tuple[float, float] | None = None,
        noise: float = 0.0,
        grid: int = 100,
        **task_options: Any,
    ) -> None:
        super().__init__(**task_options)
        self.shots, self.queries, self.grid, self.noise = shots, shots if queries is None else queries, grid, noise
        self.amplitude, self.phase, self.x_range = amplitude, phase, x_range
        self.frequency = (1.0, 1.0) if frequency is None else frequency
        self.check_sizes("shots", "queries")
        self.check_sizes("grid", "noise", least=0)
        for key in ("amplitude", "phase", "x_range", "frequency"):
            low, high = getattr(self, key)
            if not -math.inf < low <= high < math.inf:
                raise UsageError(
                    f"SinusoidTasks got {key} [{low:g}, {high:g}].\n"
                    f"write: data.init_args.{key}, two finite numbers, the lower first"
                )

    @property
    def task_shape(self) -> TaskShape:
        """One number in, one number out."""
        return TaskShape((1,), 1, classification=False)

    def tasks(self, split: Split, first: int, count: int, device: torch.device | None = None) -> TaskBatch:
        """Make a range of tasks.

        Args:
            split: ``train``, ``val`` or ``test``.
            first: number of the first task.
            count: how many.
            device: where to; None means the CPU.

        Returns:
            ``count`` tasks on ``device``, in torch's default dtype.
        """
        drawn = uniforms(self.seed, split, first, count, self._draws).to(device)
        points = self.shots + self.queries
        amplitude, phase, frequency = (
            (low + (high - low) * drawn[:, i, None]) for i, (low, high) in enumerate((self.amplitude, self.phase, self.frequency))
        )
        low, high = self.x_range
        x = low + (high - low) * drawn[:, 3 : 3 + points]
        if self.grid and split != "train":
            grid = torch.linspace(low, high, self.grid, dtype=drawn.dtype, device=device)
            x = torch.cat([x[:, : self.shots], grid.expand(count, -1)], 1)
        y = amplitude * torch.sin(frequency * x - phase)
        if self.noise:
            noisy = points if split == "train" else self.shots
            # A uniform may be 0, of which the normal quantile is infinite; the next smallest is 2**-53.
            quantile = torch.special.ndtri(drawn[:, 3 + points : 3 + points + noisy].clamp(min=2.0**-54))
            y[:, :noisy] += self.noise * quantile
        x, y = (numbers[..., None].to(torch.get_default_dtype()) for numbers in (x, y))
        return TaskBatch(x[:, : self.shots], y[:, : self.shots], x[:, self.shots :], y[:, self.shots :])

    def definition(self, split: Split, count: int) -> Iterable[bytes]:
        """Give the settings and the uniform numbers: a sine may differ in its last bit between machines.

        Args:
            split: ``train``, ``val`` or ``test``.
            count: how many tasks.

        Returns:
            Bytes to be hashed one after the other.
        """
        settings = (self.amplitude, self.phase, self.x_range, self.frequency, self.noise, self.shots, self.queries)
        grid = 0 if split == "train" else self.grid
        return [repr((settings, grid)).encode(), uniforms(self.seed, split, 0, count, self._draws).numpy().tobytes()]

    @property
    def _draws(self) -> int:
        points = self.shots + self.queries
        return 3 + points + (points if self.noise else 0)
