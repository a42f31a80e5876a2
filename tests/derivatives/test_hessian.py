"""Half precision, losses that are linear in some parameters, odd batches, and what passes a graph together."""

import pytest
import torch
from torch import nn

import cases
from gradgrad.derivatives import GGNOperator, HessianOperator
from gradgrad.derivatives.curvature import sample_count

X, Y = cases.batch(rows=8)


def mean_square(net):
    return lambda batch: (net(batch[0]) - batch[1]).square().mean()


def operators(net, batches):
    params = dict(net.named_parameters())
    yield HessianOperator(mean_square(net), params, batches)
    yield GGNOperator(lambda b: net(b[0]), lambda out, b: (out - b[1]).square().mean(), params, batches)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("copies", [1, 300])
def test_half_precision_is_summed_in_single(dtype, copies):
    half, single = cases.network().to(dtype), cases.network().to(dtype).float()
    batch = (X.to(dtype), Y.to(dtype))
    exact = operators(single, [tuple(part.float() for part in batch)])
    for operator, reference in zip(operators(half, [batch] * copies), exact, strict=True):
        assert operator.dtype == torch.float32
        v = torch.linspace(-1, 1, operator.size)
        product, expected = operator @ v, reference @ v
        assert product.dtype == torch.float32
        # Some 30 roundings on the way, each by half an eps at most; a sum of 300 batches in half precision would stop at 256.
        assert (product - expected).norm() <= 15 * torch.finfo(dtype).eps * expected.norm()
        assert (operator.gradient() - reference.gradient()).norm() <= 15 * torch.finfo(dtype).eps * reference.gradient().norm()


def test_dtypes_may_be_mixed():
    params = {
        "a": torch.ones(2, dtype=torch.bfloat16, requires_grad=True),
        "b": torch.ones(1, dtype=torch.float64).requires_grad_(),
    }
    operator = HessianOperator(lambda b: (params["a"].double() * params["b"]).square().sum() / 2, params, [X])
    assert operator.dtype == torch.float64
    # The Hessian of |a b|^2 / 2 at ones: b^2 on the diagonal, 2 a b beside it, |a|^2 in the corner; whole numbers are exact.
    assert (operator @ torch.eye(3, dtype=torch.float64)).tolist() == [[1, 0, 2], [0, 1, 2], [2, 2, 2]]


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_loss_that_is_linear_in_some_parameters(vectors):
    curved, linear = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    operator = HessianOperator(lambda b: (curved**3).sum() + 5 * linear.sum(), [linear, curved], [X])
    expected = torch.diag(torch.tensor([0.0, 6.0, 12.0]))[:, :vectors]
    assert torch.equal(operator @ torch.eye(3)[:, :vectors], expected)
    assert operator.gradient().tolist() == [5, 3, 12]
    whole = HessianOperator(lambda b: 5 * linear.sum(), [linear, curved], [X])
    assert torch.equal(whole @ torch.eye(3), torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        ({"a": (X[:2], Y[:2]), "b": (X, Y)}, 2),  # of several dataloaders
        (("names", None, [torch.tensor(0.5), X[:3]]), 3),
        ([{"ids": X[:5]}], 5),
        ((torch.tensor([0.5]), X), 1),
    ],
)
def test_the_first_tensor_with_an_axis_is_counted(batch, count):
    assert sample_count(batch) == count


def test_batches_of_several_dataloaders():
    net = cases.network()

    def loss(batch):
        return mean_square(net)(batch["a"]) + 2 * mean_square(net)(batch["b"])

    batches = [{"a": (X[k : k + 2], Y[k : k + 2]), "b": (X[-k - 2 : 8 - k], Y[-k - 2 : 8 - k])} for k in (0, 2, 4, 6)]
    params = dict(net.named_parameters())
    whole = HessianOperator(lambda b: 3 * mean_square(net)(b), params, [(X, Y)])
    v = torch.linspace(-1, 1, whole.size, dtype=torch.float64)
    torch.testing.assert_close(HessianOperator(loss, params, batches) @ v, whole @ v, rtol=1e-10, atol=1e-12)


def test_many_samples_pass_one_vector_at_a_time():
    net, calls = nn.Linear(3, 1).double(), []
    for rows in (X, X.repeat(20_000, 1)):  # 160,000 samples by 4 parameters: more than pay
        operator = HessianOperator(lambda b: net(b).square().mean(), dict(net.named_parameters()), [rows])
        operator.matmat(torch.eye(4, dtype=torch.float64))
        part = operator._batches._kept[2]
        product = part.graph.product
        counted = part.graph._replace(product=lambda v, batched, product=product: calls.append(batched) or product(v, batched))
        operator._batches._kept = (*operator._batches._kept[:2], part._replace(graph=counted))
        operator.matmat(torch.eye(4, dtype=torch.float64))
        operator.matmat(torch.eye(4, dtype=torch.float64)[:, :2])
    assert calls == [True, False, False] + [False] * 6
