"""Which parameters, which processes, and where a vector lives."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from torch import nn

from gradgrad.curvature.operator import blocks, layer_shares, reducer, trainable
from gradgrad.errors import UsageError
from strangers import Stranger


def test_strategies():
    assert reducer(SimpleNamespace(strategy=SingleDeviceStrategy("cpu"))) is None
    assert callable(reducer(SimpleNamespace(strategy=DDPStrategy())))
    sentence = (
        r"under FSDPStrategy, where a process may not have all parameters.\nexpected: one device, or ddp\nwrite:    trainer"
    )
    with pytest.raises(UsageError, match=sentence):
        reducer(SimpleNamespace(strategy=FSDPStrategy()))


def test_parameters_by_their_uncompiled_names():
    module = Stranger()
    module.net = torch.compile(module.net, backend="eager")
    module.net._orig_mod[0].bias.requires_grad_(False)
    assert list(trainable(module)) == ["net.0.weight", "net.2.weight", "net.2.bias"]
    assert {pattern: list(chosen) for pattern, chosen in blocks(module, ["net.2.*", r"^net\.\d\.weight"]).items()} == {
        "net.2.*": ["net.2.weight", "net.2.bias"],
        r"^net\.\d\.weight": ["net.0.weight", "net.2.weight"],
    }


def test_shares_of_layers():
    params = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(1), "scale": torch.zeros(1)}
    shares = layer_shares(torch.tensor([0.5, 0.5, 0.5, 0.0, 0.5, 0.0]), params)
    assert shares == {"a": pytest.approx(1.0), "scale": pytest.approx(0.0)}
    net = nn.Linear(2, 2)
    assert sum(layer_shares(torch.full((6,), 6**-0.5), dict(net.named_parameters())).values()) == pytest.approx(1.0)
