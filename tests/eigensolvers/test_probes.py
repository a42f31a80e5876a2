"""Random vectors: the distribution, the seed, and the generator that is left alone."""

import torch

from gradgrad.eigensolvers.probes import gaussian, generator, rademacher

LIKE = torch.empty(10000, dtype=torch.float32)


def test_signs_are_signs():
    signs = rademacher(2, LIKE, generator(0))
    assert signs.dtype == torch.float32
    assert torch.equal(signs.abs(), torch.ones(2, 10000))
    assert signs.mean(1).abs().max() <= 5 / 100  # five standard errors of a mean of 10,000 signs


def test_gaussians_have_mean_zero_and_variance_one():
    numbers = gaussian(2, LIKE, generator(0))
    assert numbers.mean(1).abs().max() <= 5 / 100
    assert (numbers.square().mean(1) - 1).abs().max() <= 5 * 2**0.5 / 100


def test_the_same_seed_in_pieces():
    together = rademacher(4, LIKE, generator(3))
    source = generator(3)
    assert torch.equal(together, torch.cat([rademacher(1, LIKE, source), rademacher(3, LIKE, source)]))
    assert not torch.equal(together, rademacher(4, LIKE, generator(4)))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    rademacher(1, LIKE, generator(0))
    gaussian(1, LIKE, generator(0))
    assert torch.equal(torch.get_rng_state(), before)
