"""How long Taylor arithmetic takes, beside nested reverse mode in one run, and how it grows with the order: `make bench`."""

import math
import statistics

import pytest
import torch

from clock import interleaved, seconds
from gradgrad.derivatives.taylor import taylor
from gradgrad.networks import MLP

pytestmark = pytest.mark.usefixtures("one_thread")
ORDER = 8
CURVE = range(1, 17)
ROUNDS = 7


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MLP(1, 1, (64, 64)).double()


@pytest.fixture
def points():
    return torch.linspace(-2, 2, 32, dtype=torch.float64)[:, None]


def nested(f, x, order):
    """The peer: the best that plain torch offers, one reverse pass in another; the last one keeps no graph."""
    x = x.clone().requires_grad_()
    values = [f(x)]
    for k in range(1, order + 1):
        values += torch.autograd.grad(values[-1].sum(), x, create_graph=k < order)
    return values


def test_order_8_beside_nested_reverse_mode(benchmark, network, points):
    peer = []

    def beside():
        peer.append(seconds(nested, network, points, ORDER))
        return (network, points, ORDER), {}

    benchmark.pedantic(taylor, setup=beside, rounds=ROUNDS, warmup_rounds=1)
    ratio = statistics.median(peer) / benchmark.stats.stats.median
    benchmark.extra_info["times faster than nested reverse mode"] = round(ratio, 1)
    print(f"\ntaylor to order {ORDER}: {ratio:.0f} times faster than nested reverse mode (goal: at least 10)")


def test_time_over_the_order(network, points):
    def run(function, order):
        return lambda: function(network, points, order)

    ours = interleaved([run(taylor, n) for n in CURVE], ROUNDS)
    peers = interleaved([run(nested, n) for n in range(1, ORDER + 1)], rounds=3)
    print("\norder   taylor [ms]   nested [ms]   ratio")
    for n, mine in zip(CURVE, ours, strict=True):
        peer = f"{1e3 * peers[n - 1]:13.2f} {peers[n - 1] / mine:7.1f}" if n <= ORDER else f"{'-':>13} {'-':>7}"
        print(f"{n:5} {1e3 * mine:13.2f} {peer}")
    # The first orders are overhead; from 4 on, time is about c n^p.
    logs = [(math.log(n), math.log(s)) for n, s in zip(CURVE, ours, strict=True) if n >= 4]
    exponent = statistics.linear_regression(*zip(*logs, strict=True)).slope
    print(f"time grows as order^{exponent:.2f} from order 4 on (goal: about 2 or less)")
