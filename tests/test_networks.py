from itertools import pairwise

import pytest
import torch
from torch import nn

from gradgrad.errors import UsageError
from gradgrad.networks import ACTIVATIONS, MLP, ContextMLP, Conv4, DeepLinear


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


def test_weights_of_a_certain_size():
    torch.manual_seed(0)
    net = MLP(200, 1, [300], "relu", init_std=0.01)
    for layer in (net.layers[0], net.layers[2]):
        assert layer.bias.count_nonzero() == 0
        assert layer.weight.abs().max() <= 0.02
    weights = net.layers[0].weight
    # Cut at two deviations, a normal keeps 0.8796 of its deviation; 1.5 % are six standard errors of 60,000 draws.
    assert weights.std().item() == pytest.approx(0.008796, rel=0.015)
    assert abs(weights.mean().item()) < 6 * 0.0088 / 60_000**0.5


@pytest.mark.parametrize("init_std", [0.0, -0.1, float("nan")])
def test_a_size_of_weights_that_is_none(init_std):
    with pytest.raises(
        UsageError, match=f"^MLP got init_std {init_std}; expected a positive number, or null for PyTorch's initialization.$"
    ):
        MLP(1, 1, init_std=init_std)


def test_a_context_is_further_inputs_from_zero_and_not_trained():
    net = ContextMLP(2, 1, context=3, hidden=[4], activation="tanh").double()
    x = torch.tensor([[0.3, -2.0], [1.0, 0.5]], dtype=torch.float64)
    assert net.context.tolist() == [0, 0, 0]
    assert "context" not in {name for name, p in net.named_parameters() if p.requires_grad}
    assert "context" in net.state_dict()
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == (5 + 1) * 4 + 4 + 1
    first, last = net.layers[0], net.layers[2]
    for context in ([0.0, 0, 0], [0.1, -2, 3]):
        with torch.no_grad():
            net.context.copy_(torch.tensor(context))
        inputs = torch.cat([x, net.context.expand(2, 3)], 1)
        by_hand = torch.tanh(inputs @ first.weight.T + first.bias) @ last.weight.T + last.bias
        torch.testing.assert_close(net(x), by_hand, rtol=0, atol=1e-14)
    assert net(x[:0]).shape == (0, 1)


def test_a_context_needs_a_length():
    with pytest.raises(UsageError, match=r"^ContextMLP got context 0; expected a length of at least 1, for example 5\.$"):
        ContextMLP(1, 1, context=0)


@pytest.mark.parametrize(("ways", "parameters"), [(5, 112_261), (20, 113_236)])
def test_the_size_of_conv4(ways, parameters):
    """112,261 at 5 ways is Finn's network, if one counts the scales of the normalization, which are 1 and stay 1."""
    net = Conv4(1, ways)
    assert sum(p.numel() for p in net.parameters()) == parameters
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    assert frozen == [f"blocks.{i}.norm.weight" for i in range(4)]
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == parameters - 4 * 64
    by_hand = (9 + 1) * 64 + 3 * (9 * 64 + 1) * 64 + 4 * 2 * 64 + (64 + 1) * ways
    assert parameters == by_hand


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_conv4_is_what_it_says(norm):
    torch.manual_seed(0)
    net = Conv4(2, 3, channels=8, norm=norm).double()
    x = torch.randn(6, 2, 28, 28, dtype=torch.float64)
    h = x
    for block in net.blocks:
        assert block.conv.bias.count_nonzero() == 0
        bound = (6 / (9 * (h.shape[1] + 8))) ** 0.5  # Glorot and Bengio's
        assert 0.9 * bound < block.conv.weight.abs().max() <= bound
        h = nn.functional.conv2d(h, block.conv.weight, block.conv.bias, stride=2, padding=1)
        if norm != "none":
            over = (0, 2, 3) if norm == "batch" else (1, 2, 3)
            h = (h - h.mean(over, keepdim=True)) / (h.var(over, keepdim=True, correction=0) + 1e-5).sqrt()
        h = h.clamp(min=0)
    assert h.shape == (6, 8, 2, 2)
    by_hand = h.mean((2, 3)) @ net.head.weight.T + net.head.bias
    for training in (True, False):  # batch statistics always
        torch.testing.assert_close(net.train(training)(x), by_hand, rtol=0, atol=1e-12)
    assert net.head.bias.count_nonzero() == 0
    assert not list(net.buffers())


def test_the_head_of_conv4_begins_by_a_standard_normal():
    torch.manual_seed(0)
    weights = Conv4(1, 20).head.weight
    assert abs(weights.std().item() - 1) < 6 / (2 * 1280) ** 0.5  # six standard errors
    assert abs(weights.mean().item()) < 6 / 1280**0.5


@pytest.mark.parametrize(("channels", "norm"), [(0, "batch"), (12, "group"), (0, "group")])
def test_channels_that_conv4_cannot_have(channels, norm):
    with pytest.raises(
        UsageError, match=rf"^Conv4 got channels {channels}; expected at least 1, and a multiple of 8 for norm: group\.$"
    ):
        Conv4(1, 5, channels, norm)


def test_xavier_with_a_gain_in_the_hidden_layers():
    torch.manual_seed(0)
    net = MLP(200, 100, [300], gain=1.9, output_bias=False)
    first, last = net.layers[0], net.layers[2]
    assert last.bias is None
    assert first.bias.count_nonzero() == 0
    # Six standard errors of a standard deviation, of 60,000 and of 30,000 normal draws.
    assert first.weight.std().item() == pytest.approx(1.9 * (2 / 500) ** 0.5, rel=6 / 120_000**0.5)
    assert last.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=6 / 60_000**0.5)
    assert sum(p.numel() for p in MLP(1, 1, [100], gain=1.9, output_bias=False).parameters()) == 300


def test_two_initializations():
    with pytest.raises(UsageError, match=r"^MLP got init_std 0\.1 and gain 1\.9, two ways to begin; write one of them\.$"):
        MLP(1, 1, init_std=0.1, gain=1.9)


def test_a_deep_linear_network_is_the_product_of_its_layers():
    net = DeepLinear(width=3, depth=4).double()
    assert [p.shape for p in net.parameters()] == [(3, 3)] * 4
    x = torch.randn(2, 3, dtype=torch.float64)
    product = torch.linalg.multi_dot([layer.weight for layer in reversed(net)])
    torch.testing.assert_close(net(x), x @ product.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(0, 20), (50, 0)])
def test_a_deep_linear_network_of_nothing(sizes):
    with pytest.raises(UsageError, match=f"^DeepLinear got width {sizes[0]} and depth {sizes[1]}; both must be at least 1\\.$"):
        DeepLinear(*sizes)
