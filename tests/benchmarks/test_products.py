"""What a Hessian-vector product costs in gradients and in memory, beside what PyTorch offers, in one run: `make bench`."""

import resource

import pytest
import torch
from torch import multiprocessing
from torch.func import functional_call

from clock import interleaved
from gradgrad.derivatives import GGNOperator, HessianOperator, hvp
from gradgrad.networks import MLP

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {
    "1.4k parameters, batch 64": ((10, [32, 32]), 64, 15, 10),
    "26k parameters, batch 64": ((10, [150, 150]), 64, 15, 10),
    "530k parameters, batch 256": ((10, [512, 512, 512]), 256, 9, 1),
}
VECTORS = 8


def mean_square(net):
    return lambda batch: (net(batch[0]) - batch[1]).square().mean()


def operators(net, batches):
    params = dict(net.named_parameters())
    ggn = GGNOperator(lambda b: net(b[0]), lambda out, b: (out - b[1]).square().mean(), params, batches)
    return HessianOperator(mean_square(net), params, batches), ggn


def held(operator, vectors):
    """Several products in a row, as a solver makes them."""

    def products():
        with operator.held():
            for vector in vectors:
                operator.matvec(vector)

    return products


@pytest.mark.parametrize("size", SIZES)
def test_a_product_in_gradients(size):
    (features, hidden), rows, rounds, repeats = SIZES[size]
    torch.manual_seed(0)
    net = MLP(features, 1, hidden)
    x, y = torch.randn(rows, features), torch.randn(rows, 1)
    params = {name: p.detach() for name, p in net.named_parameters()}
    vector = {name: torch.randn_like(p) for name, p in params.items()}
    flat = torch.cat([v.flatten() for v in vector.values()])
    block = torch.randn(VECTORS, len(flat)).T

    def loss(values):
        return (functional_call(net, values, (x,)) - y).square().mean()

    def fresh():
        with torch.no_grad():
            hvp(loss, params, vector)

    hessian, ggn = operators(net, [(x, y)])
    split = operators(net, list(zip(x.split(rows // 4), y.split(rows // 4), strict=True)))[0]
    leaves = list(net.parameters())
    slopes = torch.autograd.grad(mean_square(net)((x, y)), leaves, create_graph=True)
    jobs = {
        "gradient": lambda: torch.autograd.grad(mean_square(net)((x, y)), leaves),
        "hvp": fresh,
        "bare autograd.grad on a graph": lambda: torch.autograd.grad(slopes, leaves, list(vector.values()), retain_graph=True),
        "HessianOperator.matvec": lambda: hessian.matvec(flat),
        "held": held(hessian, [flat] * VECTORS),
        "held, a block of 8": lambda: hessian.matmat(block),
        "GGNOperator held": held(ggn, [flat] * VECTORS),
        "4 batches, one vector": lambda: split.matvec(flat),
        "4 batches, a block of 8": lambda: split.matmat(block),
        "torch.func jvp of grad": lambda: torch.func.jvp(torch.func.grad(loss), (params,), (vector,)),
    }
    times = dict(zip(jobs, interleaved(list(jobs.values()), rounds, repeats), strict=True))
    for name in times:
        if "held" in name or "block" in name:
            times[name] /= VECTORS
    print(f"\n{size}: " + ", ".join(f"{name} {time / times['gradient']:.2f}" for name, time in times.items()) + " gradients")
    print(f"blocks over 4 batches: {times['4 batches, one vector'] / times['4 batches, a block of 8']:.2f} times faster")


def peak(job, results):
    """Put into results by how much a job raises the memory of its process, in MiB."""
    torch.set_num_threads(1)
    small = torch.nn.Linear(64, 64)
    small(torch.randn(64, 64)).square().mean().backward()
    torch.optim.Adam(small.parameters()).step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net = MLP(10, 1, [2230, 2230, 2230])
    batch = torch.randn(256, 10), torch.randn(256, 1)
    if job == "training":
        optimizer = torch.optim.Adam(net.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            mean_square(net)(batch).backward()
            optimizer.step()
    else:
        operator = operators(net, [batch])[job == "ggn"]
        vector = torch.ones(operator.size)
        with operator.held():
            for _ in range(3):
                vector = operator.matvec(vector)
    results.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def test_memory_of_ten_million_parameters():
    context = multiprocessing.get_context("spawn")
    results, found = context.Queue(), {}
    for job in ("training", "hessian", "ggn"):
        process = context.Process(target=peak, args=(job, results))
        process.start()
        found[job] = results.get(timeout=600)
        process.join()
    print("\n10 million parameters: " + ", ".join(f"{job} {used:.0f} MiB" for job, used in found.items()))
    assert max(found["hessian"], found["ggn"]) <= 3 * found["training"]
