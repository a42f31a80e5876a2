"""Random numbers drawn again."""

import types

import pytest
import torch

from gradgrad.derivatives.randomness import RandomState


def test_the_same_numbers_inside_and_no_difference_outside():
    torch.manual_seed(0)
    state = RandomState.capture(torch.device("cpu"))
    first = torch.rand(3)
    outside = torch.get_rng_state()
    with state.replayed():
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), outside)
    with pytest.raises(KeyError, match="inside"), state.replayed():
        raise KeyError("inside")
    assert torch.equal(torch.get_rng_state(), outside)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_an_accelerator_s_generator_goes_along(monkeypatch, kind):
    """No accelerator is at hand: its module of functions is played, with the signatures that PyTorch gives them."""
    states = {"now": "later"}

    def write(state, device=None):
        states["now"] = state
        assert (device is None) == (kind == "mps")

    def read(device=None):
        assert (device is None) == (kind == "mps")
        return states["now"]

    monkeypatch.setattr(torch, "get_device_module", lambda device: types.SimpleNamespace(get_rng_state=read, set_rng_state=write))
    state = RandomState.capture(torch.device(kind))
    states["now"] = "much later"
    with state.replayed():
        assert states["now"] == "later"
    assert states["now"] == "much later"
