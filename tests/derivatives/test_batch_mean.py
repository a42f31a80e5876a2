"""Means over batches and processes: exact weights, graphs that are held or freed, gradients, failures elsewhere."""

import threading
import weakref

import pytest
import torch
import torch.distributed as dist

import cases
from gradgrad.derivatives import GGNOperator, HessianOperator
from gradgrad.errors import UsageError
from processes import two_ranks

EPS = torch.finfo(torch.float64).eps
ROWS = 33
X, Y = cases.batch(rows=ROWS)
SPLITS = {"33 rows by 32": [32, 1], "by 8": [8, 8, 8, 8, 1], "whole": [33], "with none": [16, 0, 17]}


def mean_square(net):
    return lambda batch: (net(batch[0]) - batch[1]).square().mean()


def cut(sizes, x=X, y=Y):
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def hessian(net, batches, **options):
    return HessianOperator(mean_square(net), dict(net.named_parameters()), batches, **options)


def ggn(net, batches, **options):
    params = dict(net.named_parameters())
    return GGNOperator(lambda b: net(b[0]), lambda out, b: (out - b[1]).square().mean(), params, batches, **options)


def matrix_of(operator):
    return operator.matmat(torch.eye(operator.size, dtype=operator.dtype))


def close(actual, expected):
    # Sums of some thousand products, each rounded: 1e4 ulps of the largest entry.
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e4 * EPS * expected.abs().max().item())


def autograd(net):
    loss = mean_square(net)((X, Y))
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    return loss.detach(), torch.cat([slope.flatten() for slope in slopes])


@pytest.mark.parametrize("make", [hessian, ggn])
@pytest.mark.parametrize("split", SPLITS)
def test_loss_gradient_and_matrix_whatever_the_split(make, split):
    net = cases.network()
    operator, whole = make(net, cut(SPLITS[split])), make(net, [(X, Y)])
    for _ in range(2):  # in a pass, then from what is kept
        loss, gradient = operator.loss_and_gradient()
        close(loss, autograd(net)[0])
        close(gradient, autograd(net)[1])
        close(operator.gradient(), gradient)
        assert not gradient.requires_grad
        close(matrix_of(operator), matrix_of(whole))


def test_the_gradient_of_a_kept_graph_costs_no_pass():
    net, calls = cases.network(), []
    operator = HessianOperator(
        lambda b: calls.append(1) or mean_square(net)(b), dict(net.named_parameters()), [(X, Y)], lambda b: len(b[0])
    )
    matrix_of(operator)
    operator.gradient()
    assert len(calls) == 1


def test_weights_may_be_tokens():
    net = cases.network()
    weights = torch.rand(ROWS, 1, dtype=torch.float64)

    def loss(batch):
        return ((net(batch[0]) - batch[1]).square() * batch[2]).sum() / batch[2].sum()

    params = dict(net.named_parameters())
    split = list(zip(X.split(8), Y.split(8), weights.split(8), strict=True))
    whole = HessianOperator(loss, params, [(X, Y, weights)])
    close(matrix_of(HessianOperator(loss, params, split, lambda b: b[2].sum())), matrix_of(whole))


def test_products_inside_held_are_the_same_and_see_what_changed_before():
    net, calls = cases.network(), []
    operator = HessianOperator(
        lambda b: calls.append(1) or mean_square(net)(b), dict(net.named_parameters()), [(X, Y)], lambda b: len(b[0])
    )
    v = torch.linspace(-1, 1, operator.size, dtype=torch.float64)
    for _ in range(2):
        with torch.no_grad():
            net[0].weight.mul_(1.5)
        with torch.no_grad(), operator.held(), operator.held(), torch.no_grad():
            first, second = operator @ v, operator @ v
        assert torch.equal(first, second)
        close(first, hessian(net, [(X, Y)]) @ v)
    assert len(calls) == 2
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("held", [False, True])
def test_a_batch_frees_its_graph_before_the_next_is_built(held):
    net, alive = cases.network(), []

    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive.append(weakref.ref(ctx))  # a node of the graph
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            return slope

    def loss(batch):
        assert not any(reference() for reference in alive)
        return (net[2](Same.apply(net[:2](batch[0]))) - batch[1]).square().mean()

    operator = HessianOperator(loss, dict(net.named_parameters()), cut([11, 11, 11]))
    v = torch.ones(operator.size, dtype=torch.float64)
    if held:
        with operator.held():
            operator.matvec(v)
    else:
        operator.matvec(v)
    assert alive
    assert not any(reference() for reference in alive)
    lone = HessianOperator(loss, dict(net.named_parameters()), [(X, Y)])
    lone.matvec(v)
    assert alive[-1]()
    del lone  # no cycle keeps the graph of an operator that is gone
    assert not any(reference() for reference in alive)


def ranks_of(shards, call, build):
    """Give what each of several fake processes gets from one call; they are threads, and the sum waits for all."""
    barrier, given, found = threading.Barrier(len(shards), timeout=60), {}, {}
    turn = threading.Lock()  # autograd's surroundings, such as hooks of all modules, belong to the process

    def reducer(rank):
        def reduce(flat):
            given[rank] = flat.clone()
            turn.release()
            barrier.wait()
            total = sum(given[k] for k in range(len(shards)))  # in one order: the same bits everywhere
            barrier.wait()
            turn.acquire()
            return total

        return reduce

    operators = [build(rank, shard, reducer(rank)) for rank, shard in enumerate(shards)]

    def run(rank):
        with turn:
            try:
                found[rank] = call(operators[rank])
            except Exception as error:
                found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(shards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(len(shards))]


@pytest.mark.parametrize("make", [hessian, ggn])
@pytest.mark.parametrize("sizes", [[33], [20, 13], [33, 0], [1, 20, 12]])
@pytest.mark.parametrize("rows", [33, 8])
def test_any_number_of_processes_gives_the_matrix_of_the_whole(make, sizes, rows):
    def build(rank, shard, reduce):
        x, y = shard
        return make(cases.network(), cut(rows, x, y) if len(x) else [], reduce=reduce)

    def call(operator):
        matrix_of(operator)
        return operator.loss_and_gradient(), matrix_of(operator)  # from a graph that is kept, where there is one

    net = cases.network()
    whole, (loss, gradient) = matrix_of(make(net, [(X, Y)])), autograd(net)
    for found in ranks_of(cut(sizes), call, build):
        close(found[0][0], loss)
        close(found[0][1], gradient)
        close(found[1], whole)


def test_a_failure_in_one_process_is_raised_in_all():
    def build(rank, shard, reduce):
        if rank == 1:
            shard = (shard[0] * torch.nan, shard[1])
        return hessian(cases.network(), [shard], reduce=reduce)

    found = ranks_of(cut([11, 11, 11]), lambda operator: operator.gradient(), build)
    assert "HessianOperator got a loss of nan" in str(found[1])
    for error in (found[0], found[2]):
        assert isinstance(error, UsageError)
        assert str(error) == "HessianOperator stopped, because it failed in another process, whose message says why."


def test_no_samples_in_any_process_gets_a_sentence():
    found = ranks_of([None, None], matrix_of, lambda rank, shard, reduce: hessian(cases.network(), [], reduce=reduce))
    assert [str(error) for error in found] == ["HessianOperator got no samples; expected one at least."] * 2


def product_of_a_rank(rank, port, results):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)

    def reduce(flat):
        dist.all_reduce(flat)
        return flat

    operator = hessian(cases.network(), cut([32, 1])[rank : rank + 1], reduce=reduce)
    with operator.held():
        results.put([(operator @ torch.ones(operator.size, dtype=operator.dtype)).tolist() for _ in range(2)])
    dist.destroy_process_group()


def test_two_real_processes():
    first, second = two_ranks(product_of_a_rank, told=2, seconds=120)
    assert first == second
    whole = hessian(cases.network(), [(X, Y)])
    for product in first:
        close(torch.tensor(product, dtype=torch.float64), whole @ torch.ones(whole.size, dtype=torch.float64))
