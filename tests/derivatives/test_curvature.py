"""Operators against dense matrices: any split into batches, any module that users have, and no trace left behind."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import cases
from gradgrad.derivatives import GGNOperator, HessianOperator
from gradgrad.errors import UsageError

EPS = torch.finfo(torch.float64).eps
ROWS = 9
X, Y = cases.batch(rows=ROWS)


def mean_square(net):
    return lambda batch: (net(batch[0]) - batch[1]).square().mean()


def trainable(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def dense(net, loss):
    params = trainable(net)
    sizes = [p.numel() for p in params.values()]

    def flat_loss(flat):
        pieces = {name: piece.view_as(p) for (name, p), piece in zip(params.items(), flat.split(sizes), strict=True)}
        return loss(lambda *inputs: functional_call(net, pieces, inputs))

    with sdpa_kernel(SDPBackend.MATH):
        # Not `torch.func.hessian`: in torch 2.13 it is wrong for LayerNorm, a Hessian that is not even symmetric.
        return torch.autograd.functional.hessian(flat_loss, torch.cat([p.detach().flatten() for p in params.values()]))


def matrix_of(operator):
    return operator.matmat(torch.eye(operator.size, dtype=operator.dtype))


def close(actual, expected):
    # Sums of some thousand products, each rounded: 1e4 ulps of the largest entry.
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e4 * EPS * expected.abs().max().item())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, ROWS - 1), unique=True, max_size=4))
def test_any_split_gives_the_matrix_of_the_whole(cuts):
    cuts = [0, *sorted(cuts), ROWS]
    batches = [(X[a:b], Y[a:b]) for a, b in pairwise(cuts)]
    net = cases.network()
    expected = dense(net, lambda f: (f(X) - Y).square().mean())
    close(matrix_of(HessianOperator(mean_square(net), trainable(net), batches)), expected)
    params = dict(net.named_parameters())
    jacobian = torch.autograd.functional.jacobian(
        lambda *p: functional_call(net, dict(zip(params, p, strict=True)), (X,)), tuple(params.values())
    )
    flat = torch.cat([j.reshape(ROWS, -1) for j in jacobian], 1)
    ggn = GGNOperator(lambda b: net(b[0]), lambda out, b: (out - b[1]).square().mean(), params, batches)
    close(matrix_of(ggn), flat.T @ flat * 2 / ROWS)


@pytest.mark.parametrize("problem", cases.CLOSED_FORMS)
def test_closed_forms(problem):
    theta = torch.linspace(-1, 1, problem.size, dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda batch: problem.loss(theta), theta, [torch.ones(3)])
    v = torch.linspace(2, -1, problem.size, dtype=torch.float64)
    torch.testing.assert_close(operator @ v, problem.hessian() @ v, rtol=64 * EPS, atol=1e3 * EPS)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(2, 2, 3, dropout=0.0, batch_first=True, activation="gelu")

    def forward(self, x):
        return self.layer(x.view(-1, 3, 1).expand(-1, 3, 2)).sum((1, 2)).unsqueeze(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 2, batch_first=True)

    def forward(self, x):
        return self.lstm(x.unsqueeze(-1))[0].sum((1, 2)).unsqueeze(1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.again = self.weight

    def forward(self, x):
        return (torch.tanh(x @ self.weight) @ self.again).sum(1, keepdim=True)


class Odd(nn.Module):
    """Parameters: one without numbers, one that is a number, one not used, one frozen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 1))
        self.empty = nn.Parameter(torch.ones(0, 3))
        self.number = nn.Parameter(torch.tensor(0.5))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return (x @ self.weight).tanh() * self.frozen + self.number


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 2).to(memory_format=torch.channels_last)
        self.out = nn.Linear(2, 1)

    def forward(self, x):
        return self.out(self.convolution(x.unflatten(1, (1, 3, 1)).expand(-1, 2, 3, 2)).tanh().sum((2, 3)))


MODULES = {
    "attention": Attention,
    "LSTM": Recurrent,
    "BatchNorm": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)),
    "BatchNorm in eval mode": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).eval(),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.SiLU(), nn.Flatten(), nn.Linear(4, 1)),
    "normalization by layer": lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.GELU(), nn.Linear(3, 1)),
    "normalization by group": lambda: nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Tanh(), nn.Linear(4, 1)),
    "channels last": ChannelsLast,
    "dropout": lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)),
    "half frozen": lambda: nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Tanh(), nn.Linear(3, 1)),
    "spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 1)),
    "tied": Tied,
    "odd": Odd,
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_users_have(name):
    torch.manual_seed(3)
    net = MODULES[name]().double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    operator = HessianOperator(mean_square(net), dict(net.named_parameters()), [(X, Y)])
    actual = matrix_of(operator)
    assert operator._together == (name != "normalization by group")  # that cannot be batched
    columns = torch.eye(operator.size, dtype=torch.float64)
    one_by_one = torch.stack([operator @ column for column in columns], 1)
    torch.testing.assert_close(one_by_one, actual, rtol=1e-12, atol=1e-12 * actual.abs().max().item())
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key  # running statistics and power iterations as they were
    assert all(p.grad is None for p in net.parameters())
    if name == "spectral norm":
        net.eval()  # in training mode the weights' singular vectors move with each pass, which no dense oracle follows
        close(
            matrix_of(HessianOperator(mean_square(net), dict(net.named_parameters()), [(X, Y)])),
            dense(net, lambda f: (f(X) - Y).square().mean()),
        )
    elif name == "BatchNorm":
        expected = _by_differences(net)
        # Central differences err by h^2 f'''/6 + eps |g| / h, about eps^(2/3) = 4e-11 times a third derivative of some hundreds.
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7 * expected.abs().max().item())
    else:
        close(actual, dense(net, lambda f: (f(X) - Y).square().mean()))


def _by_differences(net):
    params = list(net.parameters())
    step = EPS ** (1 / 3)
    buffers = {name: b.clone() for name, b in net.named_buffers()}

    def slope():
        for name, b in net.named_buffers():
            b.data = buffers[name].clone()
        gradients = torch.autograd.grad(mean_square(net)((X, Y)), params)
        return torch.cat([g.flatten() for g in gradients])

    columns = []
    for p in params:
        for i in range(p.numel()):
            with torch.no_grad():
                original = p.view(-1)[i].item()
                p.view(-1)[i] = original + step
            above = slope()
            with torch.no_grad():
                p.view(-1)[i] = original - step
            below = slope()
            with torch.no_grad():
                p.view(-1)[i] = original
            columns.append((above - below) / (2 * step))
    return torch.stack(columns, 1)


def test_one_dropout_mask_for_all_products_and_the_random_numbers_outside_untouched():
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 1)).double()
    for batches in ([(X, Y)], [(X[:4], Y[:4]), (X[4:], Y[4:])]):
        operator = HessianOperator(mean_square(net), dict(net.named_parameters()), batches)
        state = torch.get_rng_state()
        first = matrix_of(operator)
        torch.rand(7)
        close(matrix_of(operator), first)
        close(first, first.T)
        torch.set_rng_state(state)
        other = HessianOperator(mean_square(net), dict(net.named_parameters()), batches)
        torch.rand(1)
        assert not torch.allclose(matrix_of(HessianOperator(mean_square(net), dict(net.named_parameters()), batches)), first)
        close(matrix_of(other), first)
        torch.set_rng_state(state)
        first = torch.rand(1)
        torch.set_rng_state(state)
        matrix_of(operator)
        assert torch.equal(torch.rand(1), first)


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_a_compiled_module_is_run_uncompiled(how):
    torch._dynamo.reset()
    net = cases.network()
    expected = dense(net, lambda f: (f(X) - Y).square().mean())
    compiled = torch.compile(net, backend="aot_eager") if how == "wrapper" else net
    if how == "in place":
        net.compile(backend="aot_eager")
    close(matrix_of(HessianOperator(mean_square(compiled), dict(net.named_parameters()), [(X, Y)])), expected)


def test_autocast_and_no_grad_around_change_nothing():
    net = cases.network().float()
    batch = (X.float(), Y.float())
    operator = HessianOperator(mean_square(net), dict(net.named_parameters()), [batch])
    plain = matrix_of(operator)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(matrix_of(HessianOperator(mean_square(net), dict(net.named_parameters()), [batch])), plain)
    assert torch.backends.cudnn.enabled
    assert torch.is_grad_enabled()


def test_inference_mode_around_is_left_for_the_product():
    net = cases.network()
    operator = HessianOperator(mean_square(net), dict(net.named_parameters()), [(X, Y)])
    plain = matrix_of(operator)
    with torch.inference_mode():
        fresh = HessianOperator(mean_square(net), dict(net.named_parameters()), [(X, Y)])
        close(fresh.matmat(torch.eye(fresh.size, dtype=torch.float64)).clone(), plain)


def test_data_made_under_inference_mode_get_a_sentence():
    net = cases.network()
    with torch.inference_mode():
        operator = HessianOperator(mean_square(net), dict(net.named_parameters()), [(X * 1, Y * 1)])
        with pytest.raises(
            UsageError,
            match=r"^HessianOperator got tensors made under torch\.inference_mode, which autograd may not use\.\nwrite: ",
        ):
            operator.matvec(torch.ones(operator.size, dtype=torch.float64))


def test_attention_that_is_forced_to_be_fused_gets_a_sentence():
    net = Attention().double()

    def loss(batch):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return mean_square(net)(batch)

    operator = HessianOperator(loss, dict(net.named_parameters()), [(X, Y)])
    with pytest.raises(
        UsageError,
        match=r"^HessianOperator got fused attention, which has no second derivative\.\nwrite:    with torch\.nn\.att",
    ):
        operator.matvec(torch.ones(operator.size, dtype=torch.float64))


def test_reentrant_checkpointing_and_once_differentiable_get_a_sentence():
    net = cases.network()

    def checkpointed(batch):
        return (
            (torch.utils.checkpoint.checkpoint(net, batch[0].clone().requires_grad_(), use_reentrant=True) - batch[1])
            .square()
            .mean()
        )

    with pytest.raises(UsageError, match=r"^HessianOperator got reentrant checkpointing"):
        HessianOperator(checkpointed, dict(net.named_parameters()), [(X, Y)]).matvec(torch.ones(26, dtype=torch.float64))

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            return 2 * slope * ctx.saved_tensors[0]

    with pytest.raises(UsageError, match=r"^HessianOperator got a function marked @once_differentiable"):
        HessianOperator(lambda b: Once.apply(net(b[0])).mean(), dict(net.named_parameters()), [(X, Y)]).matvec(
            torch.ones(26, dtype=torch.float64)
        )


def test_the_graph_of_a_lone_batch_is_built_once_and_again_when_a_parameter_changes():
    net, calls = cases.network(), []

    def loss(batch):
        calls.append(1)
        return mean_square(net)(batch)

    operator = HessianOperator(loss, dict(net.named_parameters()), [(X, Y)])
    first = matrix_of(operator)
    close(matrix_of(operator), first)
    assert len(calls) == 1
    with torch.no_grad():
        net[0].weight.mul_(2)
    close(matrix_of(operator), dense(net, lambda f: (f(X) - Y).square().mean()))
    assert len(calls) == 2


def test_a_kept_graph_follows_whatever_changes():
    net = cases.network()
    batches = [(X.clone(), Y)]
    operator = HessianOperator(mean_square(net), dict(net.named_parameters()), batches)
    matrix_of(operator)
    for p in net.parameters():
        p.data.add_(0.5)  # leaves no version behind
    close(matrix_of(operator), dense(net, lambda f: (f(X) - Y).square().mean()))
    batches[0][0].mul_(2)
    close(matrix_of(operator), dense(net, lambda f: (f(2 * X) - Y).square().mean()))
    batches.append((X, Y))
    both = torch.cat([2 * X, X]), torch.cat([Y, Y])
    close(matrix_of(operator), dense(net, lambda f: (f(both[0]) - both[1]).square().mean()))


def test_a_kept_graph_is_used_in_the_same_surroundings():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double()

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)

    torch.manual_seed(0)
    net = Checkpointed()
    operator = HessianOperator(mean_square(net), dict(net.named_parameters()), [(X, Y)])
    with torch.autocast("cpu", torch.bfloat16):
        first, second = matrix_of(operator), matrix_of(operator)
    close(first, second)
    assert net.net[1].num_batches_tracked == 0
    plain = HessianOperator(mean_square(net.net), dict(net.net.named_parameters()), [(X, Y)])
    close(first, matrix_of(plain))


def test_an_iterator_of_batches_serves_more_than_once():
    net = cases.network()
    operator = HessianOperator(mean_square(net), dict(net.named_parameters()), iter([(X[:4], Y[:4]), (X[4:], Y[4:])]))
    close(matrix_of(operator), matrix_of(operator))


def test_samples_are_counted_where_they_are():
    net = cases.network()
    batches = [{"sizes": [X[:2]], "rest": (X[:2], Y[:2])}, {"sizes": [X[2:]], "rest": (X[2:], Y[2:])}]
    expected = dense(net, lambda f: (f(X) - Y).square().mean())
    loss = mean_square(net)
    close(matrix_of(HessianOperator(lambda b: loss(b["rest"]), trainable(net), batches)), expected)
    counted = HessianOperator(lambda b: loss(b["rest"]), trainable(net), batches, count=lambda b: len(b["rest"][1]))
    close(matrix_of(counted), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batches": []}, r"^HessianOperator got no samples; expected one at least\.$"),
        ({"params": {}}, r"^HessianOperator got no tensors"),
        ({"params": {"w": torch.ones(2)}}, r"^HessianOperator got no parameter that requires a gradient\."),
        (
            {"params": {"w": torch.ones(2).requires_grad_()}, "loss": lambda b: b[0].sum()},
            r"^HessianOperator got a loss that does not depend on params\.",
        ),
        ({"loss": lambda b: torch.tensor(torch.nan)}, r"^HessianOperator got a loss of nan"),
        ({"batches": (X, Y)}, r"^HessianOperator got one batch; expected several\.\nwrite:    \[batch\]$"),
        ({"batches": [(X[:0], Y[:0])]}, r"^HessianOperator got no samples; expected one at least\.$"),
        ({"batches": [7]}, r"^the number of samples in a batch of type int is not known\.\nexpected: a tensor"),
    ],
)
def test_bad_input_gets_a_sentence(change, sentence):
    net = cases.network()
    given = {"loss": lambda b: net(X).mean(), "params": dict(net.named_parameters()), "batches": [(X, Y)], **change}

    def first_product():
        operator = HessianOperator(given["loss"], given["params"], given["batches"])
        operator.matvec(torch.ones(operator.size, dtype=operator.dtype))

    with pytest.raises(UsageError, match=sentence):
        first_product()
