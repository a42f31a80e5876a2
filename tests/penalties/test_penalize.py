"""A loss with its penalties: when they act, what they leave alone, and which modules they refuse."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import cases
from gradgrad.errors import UsageError
from gradgrad.penalties import GradientNormPenalty, InputGradientPenalty, penalize

BATCH = cases.batch()
EVERY_KIND = [
    GradientNormPenalty(0.5),
    GradientNormPenalty(0.5, p=1, squared=False),
    GradientNormPenalty(0.5, method="finite_difference"),
    GradientNormPenalty(0.5, method="sam"),
    GradientNormPenalty(0.5, micro_batch_size=3),
    InputGradientPenalty(0.5),
    InputGradientPenalty(0.5, target="loss"),
]


@pytest.mark.parametrize(
    "penalties", [[], [GradientNormPenalty(0.0)], [GradientNormPenalty(1.0, warmup_steps=5), InputGradientPenalty(0.0)]]
)
def test_where_none_is_in_force_the_loss_is_the_plain_one_bit_for_bit(penalties):
    module = cases.Regression(cases.network())
    penalized = penalize(module, BATCH, penalties)
    assert torch.equal(penalized.total, module.loss(BATCH))
    assert torch.equal(penalized.loss, module.loss(BATCH))
    assert penalized.penalty == 0
    assert penalized.norms == {}
    actual = torch.autograd.grad(penalized.total, list(module.parameters()))
    assert all(map(torch.equal, actual, torch.autograd.grad(module.loss(BATCH), list(module.parameters()))))


@pytest.mark.parametrize("penalty", EVERY_KIND, ids=repr)
def test_the_value_is_the_loss_and_the_penalty(penalty):
    module = cases.Regression(cases.network())
    penalized = penalize(module, BATCH, [penalty])
    assert penalized.total.item() == pytest.approx((penalized.loss + penalized.penalty).item(), rel=1e-15)
    assert penalized.penalty.item() > 0
    assert list(penalized.norms) == [penalty.norm_name]
    assert not any(t.requires_grad for t in (penalized.loss, penalized.penalty, *penalized.norms.values()))


@pytest.mark.filterwarnings("ignore:InputGradientPenalty got BatchNorm")
@pytest.mark.parametrize("penalty", EVERY_KIND, ids=repr)
def test_buffers_move_once_also_at_the_first_step(penalty):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1)).double()
    penalty.proved = False
    torch.manual_seed(1)
    penalize(cases.Regression(net), BATCH, [penalty])
    assert net[1].num_batches_tracked == 1
    after = net[1].running_mean.clone()
    net[1].reset_running_stats()
    torch.manual_seed(1)
    net(BATCH[0])
    assert torch.equal(net[1].running_mean, after)


def test_every_second_step_is_plain():
    module = cases.Regression(cases.network())
    penalty = GradientNormPenalty(0.5, every=2)
    once = penalize(module, BATCH, [GradientNormPenalty(1.0)]).penalty
    assert [penalize(module, BATCH, [penalty], step).penalty.item() for step in range(4)] == [once.item(), 0, once.item(), 0]


class Attention(nn.Module):
    def __init__(self, forced=None):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True, dtype=torch.float64)
        self.forced = forced

    def loss(self, batch):
        x = batch[0].unsqueeze(-1).expand(-1, -1, 2)
        if self.forced is None:
            return self.attention(x, x, x, need_weights=False)[0].square().mean()
        with sdpa_kernel(self.forced):
            return self.attention(x, x, x, need_weights=False)[0].square().mean()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 2, batch_first=True, dtype=torch.float64)

    def loss(self, batch):
        return self.lstm(batch[0].unsqueeze(-1))[0].square().mean()


@pytest.mark.parametrize("make", [Attention, Recurrent])
def test_attention_and_recurrent_layers_are_differentiated_twice(make):
    torch.manual_seed(0)
    module = make()
    penalty = GradientNormPenalty(0.5)
    penalize(module, BATCH, [penalty]).total.backward()
    actual = cases.flat_gradients(module)
    with sdpa_kernel(SDPBackend.MATH):
        loss = module.loss(BATCH)
        gradients = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
        total = loss + 0.5 * torch.cat([g.flatten() for g in gradients]).square().sum()
        expected = torch.autograd.grad(total, list(module.parameters()))
    torch.testing.assert_close(actual, torch.cat([g.flatten() for g in expected]), rtol=1e-10, atol=1e-14)


def test_attention_that_is_forced_to_be_fused_is_refused_at_the_first_step_also_in_warm_up():
    module = Attention(SDPBackend.FLASH_ATTENTION)
    with pytest.raises(UsageError, match="fused attention") as error:
        penalize(module, BATCH, [GradientNormPenalty(0.5, warmup_steps=100)])
    assert str(error.value) == (
        "GradientNormPenalty got fused attention, which has no second derivative (attention).\n"
        "write:    with torch.nn.attention.sdpa_kernel(SDPBackend.MATH): around it, or force no other kernel\n"
        "or:       method: finite_difference, which needs no second derivative"
    )
    penalize(module, BATCH, [GradientNormPenalty(0.5, method="finite_difference")]).total.backward()


@pytest.mark.parametrize("penalty", [GradientNormPenalty(0.5), InputGradientPenalty(0.5)], ids=repr)
def test_a_compiled_module_is_refused_by_its_name(penalty):
    torch._dynamo.reset()
    penalty.proved = False
    module = cases.Regression(torch.compile(cases.network(), backend="aot_eager"))
    with pytest.raises(
        UsageError, match=rf"^{type(penalty).__name__} got a module compiled by torch\.compile, .* \(net\)\.\nwrite:    use the"
    ):
        penalize(module, BATCH, [penalty])


# Dynamo looks at `.grad` of what it is given, here perturbed weights, which are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("method", ["finite_difference", "sam"])
def test_a_compiled_module_may_be_penalized_without_a_second_derivative(method):
    torch._dynamo.reset()
    net = cases.network()
    plain = penalize(cases.Regression(net), BATCH, [GradientNormPenalty(0.5, method=method)])
    expected = torch.autograd.grad(plain.total, list(net.parameters()))
    compiled = cases.Regression(torch.compile(net, backend="aot_eager"))
    actual = torch.autograd.grad(
        penalize(compiled, BATCH, [GradientNormPenalty(0.5, method=method)]).total, list(net.parameters())
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_sharded_module_is_refused_by_its_name():
    class FSDPModule(nn.Linear):  # what `fully_shard` makes of a module: a subclass of FSDPModule
        pass

    module = cases.Regression(nn.Sequential(FSDPModule(3, 1).double()))
    sentence = r"^GradientNormPenalty got parameters that FSDP shards in net\.0; it cannot be differentiated twice\.\nwrite: "
    with pytest.raises(UsageError, match=sentence):
        penalize(module, BATCH, [GradientNormPenalty(0.5)])


def test_reentrant_checkpoints_are_refused():
    class Checkpointed(cases.Regression):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.net, x.clone().requires_grad_(), use_reentrant=True)

    with pytest.raises(
        UsageError, match=r"^GradientNormPenalty got reentrant checkpointing, which torch\.autograd\.grad cannot pass\.\nwrite: "
    ):
        penalize(Checkpointed(cases.network()), BATCH, [GradientNormPenalty(0.5)])


def test_a_checkpoint_that_recomputes_with_another_kernel_gets_a_sentence():
    class Checkpointed(Attention):
        def loss(self, batch):
            return torch.utils.checkpoint.checkpoint(super().loss, batch, use_reentrant=False)

    with pytest.raises(
        UsageError, match=r"^GradientNormPenalty got a checkpoint that recomputes with other kernels than it ran with\.\nwrite: "
    ):
        penalize(Checkpointed(), BATCH, [GradientNormPenalty(0.5)])
    inside = Checkpointed(SDPBackend.MATH)
    penalize(inside, BATCH, [GradientNormPenalty(0.5)]).total.backward()


def test_checkpointing_that_is_not_reentrant_gives_the_same_numbers():
    class Checkpointed(cases.Regression):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)

    net = cases.network()
    plain, checkpointed = (
        penalize(kind(net), BATCH, [GradientNormPenalty(0.5)]).total for kind in (cases.Regression, Checkpointed)
    )
    for a, b in zip(*(torch.autograd.grad(total, list(net.parameters())) for total in (checkpointed, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            nn.Linear(3, 1),
            r"^penalize got a Linear, which has no method loss\(batch\)\.\nexpected: the mean loss over the batch's samples",
        ),
        (
            cases.Regression(nn.Identity()),
            r"^penalize got a Regression without trainable parameters; unfreeze some, or leave the penalty out\.$",
        ),
    ],
)
def test_a_module_that_cannot_be_penalized_is_refused(module, sentence):
    with pytest.raises(UsageError, match=sentence):
        penalize(module, BATCH, [GradientNormPenalty(0.5)])


def test_a_loss_that_is_no_number_is_refused():
    module = cases.Regression(cases.network())
    module.loss = lambda batch: module(batch[0])
    with pytest.raises(
        UsageError,
        match=r"^Regression\.loss gave a loss of shape \(8, 1\); expected a scalar tensor, the mean over the samples\.$",
    ):
        penalize(module, BATCH, [])
    module.loss = lambda batch: module(batch[0]).mean() * torch.nan
    with pytest.raises(
        UsageError, match=r"^Regression\.loss gave nan, which cannot be penalized\.\nwrite:    a smaller learning rate"
    ):
        penalize(module, BATCH, [GradientNormPenalty(0.5)])


def test_without_a_graph_there_is_nothing_to_penalize():
    module = cases.Regression(cases.network())
    with torch.no_grad():
        assert penalize(module, BATCH, [GradientNormPenalty(0.0)]).total == module.loss(BATCH)
        with pytest.raises(
            UsageError, match=r"^Regression\.loss gave a loss without a graph, which has no gradient to penalize\.\nwrite: "
        ):
            penalize(module, BATCH, [GradientNormPenalty(0.5)])


def test_no_norm_hides_another():
    module = cases.Regression(cases.network())
    terms = [GradientNormPenalty(0.5), InputGradientPenalty(0.1), GradientNormPenalty(0.5, p=1)]
    norms = penalize(module, BATCH, terms).norms
    assert list(norms) == ["gradient_norm_0", "input_gradient_norm", "gradient_norm_2"]
    assert norms["gradient_norm_0"] < norms["gradient_norm_2"]


def test_one_penalty_needs_no_list_and_what_is_none_is_refused():
    module = cases.Regression(cases.network())
    one = penalize(module, BATCH, GradientNormPenalty(0.5))
    assert torch.equal(one.total, penalize(module, BATCH, [GradientNormPenalty(0.5)]).total)
    with pytest.raises(UsageError, match=r"^penalize got a Linear among the penalties; expected gradgrad\.penalties\.Penalty\."):
        penalize(module, BATCH, [nn.Linear(1, 1)])
