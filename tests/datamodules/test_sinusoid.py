"""Sinusoids: their formula, their distributions, what never depends on what."""

import math

import pytest
import torch
from scipy.stats import kstest, norm, uniform

from gradgrad.datamodules import SinusoidTasks
from gradgrad.errors import UsageError

RARE = 1e-3  # a fixed stream fails once and for all or never; a sound one does with this probability
ROUNDING = 20 * torch.finfo(torch.float64).eps  # a product, a difference and a sine of |y| <= 5


def fitted_wave(x, y, frequency=1.0):
    """Amplitude and phase by least squares on sine and cosine: no code shared with the generator."""
    basis = torch.stack([torch.sin(frequency * x), -torch.cos(frequency * x)], -1)
    a, b = torch.linalg.lstsq(basis, y[..., None]).solution[..., 0].unbind(-1)
    return torch.hypot(a, b), torch.atan2(b, a), (basis @ torch.stack([a, b], -1)[..., None])[..., 0]


@pytest.mark.usefixtures("float64")
def test_each_task_is_one_sine_with_uniform_amplitude_and_phase():
    tasks = SinusoidTasks().tasks("train", 0, 4000)
    x, y = (torch.cat(parts, 1)[..., 0] for parts in ((tasks.support_x, tasks.query_x), (tasks.support_y, tasks.query_y)))
    amplitude, phase, again = fitted_wave(x, y)
    torch.testing.assert_close(again, y, rtol=0, atol=1e3 * ROUNDING)  # ten random points condition the basis
    assert kstest(amplitude, uniform(0.1, 4.9).cdf).pvalue > RARE
    assert kstest(phase, uniform(0, math.pi).cdf).pvalue > RARE
    assert kstest(x.flatten(), uniform(-5, 10).cdf).pvalue > RARE


@pytest.mark.usefixtures("float64")
def test_a_frequency_may_vary():
    one = SinusoidTasks(frequency=(1.7, 1.7)).tasks("val", 0, 50)
    _, _, again = fitted_wave(one.query_x[..., 0], one.query_y[..., 0], 1.7)
    torch.testing.assert_close(again, one.query_y[..., 0], rtol=0, atol=1e3 * ROUNDING)
    varied = SinusoidTasks(frequency=(0.8, 1.2)).tasks("val", 0, 50)
    assert torch.equal(varied.query_x, one.query_x)
    assert (varied.query_y != one.query_y).any()


@pytest.mark.usefixtures("float64")
def test_noise_is_normal_and_never_on_evaluation_queries():
    plain, noisy = (SinusoidTasks(shots=5, queries=3, frequency=(1, 1), noise=0.5) for _ in range(2))
    plain.noise = 1e-300  # the same draws, and nothing to see of them
    for split, of_queries in (("train", True), ("val", False), ("test", False)):
        a, b = plain.tasks(split, 0, 1000), noisy.tasks(split, 0, 1000)
        assert kstest((b.support_y - a.support_y).flatten() / 0.5, norm.cdf).pvalue > RARE
        difference = (b.query_y - a.query_y).flatten()
        assert kstest(difference / 0.5, norm.cdf).pvalue > RARE if of_queries else (difference == 0).all()


def test_evaluation_queries_are_a_grid_or_random():
    shapes = {
        split: [tuple(part.shape) for part in SinusoidTasks(shots=5).tasks(split, 0, 2)] for split in ("train", "val", "test")
    }
    assert shapes["train"] == [(2, 5, 1)] * 4
    assert shapes["val"] == shapes["test"] == [(2, 5, 1), (2, 5, 1), (2, 100, 1), (2, 100, 1)]
    grid = SinusoidTasks(grid=11).tasks("test", 0, 3).query_x
    torch.testing.assert_close(grid, torch.arange(-5.0, 6.0)[:, None].expand(3, 11, 1))
    drawn = SinusoidTasks(grid=0, queries=4).tasks("test", 0, 3)
    assert drawn.query_x.shape == (3, 4, 1)
    assert len(drawn.query_x.unique()) == 12


def test_training_does_not_depend_on_evaluation_settings():
    usual = SinusoidTasks().tasks("train", 0, 10)
    for options in ({"grid": 0}, {"eval_tasks": 7}, {"eval_batch_size": 7}, {"meta_batch_size": 3}, {"frequency": (1, 1)}):
        assert all(map(torch.equal, usual, SinusoidTasks(**options).tasks("train", 0, 10)))


def test_tasks_are_whole_numbers_of_a_stream():
    data = SinusoidTasks(noise=0.1)
    together = data.tasks("train", 10**6, 30)
    apart = [data.tasks("train", 10**6 + i, 10) for i in (0, 10, 20)]
    assert all(torch.equal(part, torch.cat(parts)) for part, *parts in zip(together, *apart, strict=True))
    assert together.support_x.dtype == torch.float32


def test_what_a_network_is_built_for():
    assert SinusoidTasks().task_shape == ((1,), 1, False)


@pytest.mark.parametrize("key", ["amplitude", "phase", "x_range", "frequency"])
@pytest.mark.parametrize("bounds", [(2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_range_upside_down_is_refused(key, bounds):
    with pytest.raises(UsageError, match=f"write: data.init_args.{key}, two finite numbers, the lower first") as error:
        SinusoidTasks(**{key: bounds})
    assert str(error.value).startswith(f"SinusoidTasks got {key} [{bounds[0]:g}, {bounds[1]:g}].")


@pytest.mark.parametrize(("key", "value", "least"), [("shots", 0, 1), ("queries", 0, 1), ("grid", -1, 0), ("noise", -0.5, 0)])
def test_a_size_too_small_is_refused(key, value, least):
    with pytest.raises(UsageError, match=f"SinusoidTasks got {key} {value}.\nwrite: data.init_args.{key}, at least {least}"):
        SinusoidTasks(**{key: value})
