"""Two processes against one: local and global penalties."""

import pytest
import torch
from torch import distributed as dist

import cases
from gradgrad.penalties import GradientNormPenalty, penalize
from processes import two_ranks

KINDS = {
    "exact": {},
    "norm": {"squared": False},
    "p=4": {"p": 4},
    "finite difference": {"method": "finite_difference", "radius": 1e-3},
    "sam": {"method": "sam"},
}


def _in_a_process(rank, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x, y = cases.batch()
    half = (x[rank::2], y[rank::2])
    found = {}
    for scope in ("local", "global"):
        for name, arguments in KINDS.items():
            module = cases.Regression(cases.network())
            wrapped = torch.nn.parallel.DistributedDataParallel(Step(module, GradientNormPenalty(0.7, scope=scope, **arguments)))
            total, norm = wrapped(half)
            total.backward()
            found[scope, name] = (cases.flat_gradients(module).tolist(), norm.item())
    if rank == 0:
        results.put(found)
    dist.destroy_process_group()


class Step(torch.nn.Module):
    """What Lightning does under DDP: the training step runs inside the wrapper's forward."""

    def __init__(self, module, penalty):
        super().__init__()
        self.module = module
        self.penalty = [penalty]

    def forward(self, batch):
        penalized = penalize(self.module, batch, self.penalty)
        return penalized.total, penalized.norms["gradient_norm"]


@pytest.fixture(scope="module")
def two_processes():
    return two_ranks(_in_a_process, told=1, seconds=120)[0]


def _alone(batch, arguments):
    module = cases.Regression(cases.network())
    penalized = penalize(module, batch, [GradientNormPenalty(0.7, **arguments)])
    penalized.total.backward()
    return cases.flat_gradients(module), penalized.norms["gradient_norm"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_global_is_the_full_batch_of_one_process(two_processes, name):
    gradient, norm = two_processes["global", name]
    expected, expected_norm = _alone(cases.batch(), KINDS[name])
    # A finite difference divides its rounding by the radius.
    close = 1e-9 if name == "finite difference" else 1e-12
    torch.testing.assert_close(
        torch.tensor(gradient, dtype=torch.float64), expected, rtol=close, atol=close * expected.abs().max().item()
    )
    assert norm == pytest.approx(expected_norm.item(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_local_is_the_mean_of_the_local_ones(two_processes, name):
    gradient, norm = two_processes["local", name]
    x, y = cases.batch()
    halves = [_alone((x[rank::2], y[rank::2]), KINDS[name]) for rank in range(2)]
    expected = (halves[0][0] + halves[1][0]) / 2
    close = 1e-9 if name == "finite difference" else 1e-12
    torch.testing.assert_close(
        torch.tensor(gradient, dtype=torch.float64), expected, rtol=close, atol=close * expected.abs().max().item()
    )
    assert norm == pytest.approx(halves[0][1].item(), rel=1e-12)
    whole, _ = _alone(cases.batch(), KINDS[name])
    assert (expected - whole).norm() > 1e-3 * whole.norm()  # the two scopes are not the same
