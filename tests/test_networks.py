from itertools import pairwise

import pytest
import torch

from gradgrad.errors import UsageError
from gradgrad.networks import ACTIVATIONS, MLP


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [[], [5], [4, 3]])
def test_shapes_and_parameter_count(activation, hidden):
    net = MLP(3, 2, hidden, activation)
    widths = [3, *hidden, 2]
    assert net(torch.zeros(7, 3)).shape == (7, 2)
    assert sum(p.numel() for p in net.parameters()) == sum((a + 1) * b for a, b in pairwise(widths))


def test_it_is_what_it_says():
    net = MLP(2, 1, [3], "tanh").double()
    first, last = net.layers[0], net.layers[2]
    x = torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    by_hand = torch.tanh(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), by_hand, rtol=0, atol=1e-14)


def test_an_empty_layer_is_refused():
    with pytest.raises(
        UsageError, match=r"^MLP got widths \[3, 0, 1\]; every width must be at least 1, for example hidden: \[50\]\.$"
    ):
        MLP(3, 1, [0])
