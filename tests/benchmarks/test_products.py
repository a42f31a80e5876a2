"""What a Hessian-vector product costs in gradients, beside what PyTorch offers, in one run: `make bench`."""

import pytest
import torch
from torch.func import functional_call

from clock import interleaved
from gradgrad.derivatives import GGNOperator, HessianOperator, hvp
from gradgrad.networks import MLP

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {
    "26k parameters, batch 64": ((10, [150, 150]), 64, 15, 10),
    "530k parameters, batch 256": ((10, [512, 512, 512]), 256, 9, 1),
}
VECTORS = 8


@pytest.mark.parametrize("size", SIZES)
def test_a_product_in_gradients(size):
    (features, hidden), rows, rounds, repeats = SIZES[size]
    torch.manual_seed(0)
    net = MLP(features, 1, hidden)
    x, y = torch.randn(rows, features), torch.randn(rows, 1)
    leaves = dict(net.named_parameters())
    params = {name: p.detach() for name, p in leaves.items()}
    vector = {name: torch.randn_like(p) for name, p in params.items()}
    flat = torch.cat([v.flatten() for v in vector.values()])

    def loss(values):
        return (functional_call(net, values, (x,)) - y).square().mean()

    def mean_square(batch):
        return (net(batch[0]) - batch[1]).square().mean()

    hessian = HessianOperator(mean_square, leaves, [(x, y)])
    ggn = GGNOperator(lambda b: net(b[0]), lambda out, b: (out - b[1]).square().mean(), leaves, [(x, y)])
    cut = [(x[k::4], y[k::4]) for k in range(4)]
    split = HessianOperator(mean_square, leaves, cut)
    block = torch.randn(len(flat), VECTORS)

    def fresh():
        with torch.no_grad():
            hvp(loss, params, vector)

    jobs = {
        "gradient": lambda: torch.autograd.grad(mean_square((x, y)), list(leaves.values())),
        "hvp": fresh,
        "HessianOperator.matvec": lambda: hessian.matvec(flat),
        "GGNOperator.matvec": lambda: ggn.matvec(flat),
        "4 batches, 8 vectors at once, per vector": lambda: split.matmat(block),
        "4 batches, one vector": lambda: split.matvec(flat),
        "torch.func jvp of grad": lambda: torch.func.jvp(torch.func.grad(loss), (params,), (vector,)),
    }
    times = dict(zip(jobs, interleaved(list(jobs.values()), rounds, repeats), strict=True))
    times["4 batches, 8 vectors at once, per vector"] /= VECTORS
    print(f"\n{size}: " + ", ".join(f"{name} {time / times['gradient']:.2f}" for name, time in times.items()) + " gradients")
