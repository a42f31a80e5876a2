"""Networks that are hard to differentiate twice: attention, batch norm, dropout, LSTM, control flow; and bfloat16."""

import dataclasses

import pytest
import torch
from by_hand import assert_same, meta_gradient
from family import MODES, TASKS, learner, random, regression
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from gradgrad.adaptation import SGD, Execution, Implicit, Reptile, Unrolled, adapt
from gradgrad.adaptation.evaluation import evaluate
from gradgrad.batches import TaskBatch

CHECKPOINTS = {"kept": False, "checkpointed": True}


class Attention(nn.Module):
    """Samples of a task attend to one another, by PyTorch's function or by its formula."""

    def __init__(self, fused=True):
        super().__init__()
        self.into, self.out, self.fused = nn.Linear(2, 6), nn.Linear(2, 1), fused

    def forward(self, x):
        q, k, v = (part[None, None] for part in self.into(x).chunk(3, 1))
        if self.fused:
            return self.out(scaled_dot_product_attention(q, k, v)[0, 0])
        return self.out(((q @ k.mT / 2**0.5).softmax(-1) @ v)[0, 0])


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(2, 2, batch_first=True), nn.Linear(2, 1)

    def forward(self, x):
        return self.out(self.attention(x[None], x[None], x[None], need_weights=False)[0][0])


class Normalized(nn.Module):
    """Batch norm by the statistics of the samples at hand, or by its formula."""

    def __init__(self, layer=True):
        super().__init__()
        self.body, self.head = nn.Linear(2, 4), nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4, track_running_stats=False) if layer else None

    def forward(self, x):
        h = self.body(x)
        h = self.norm(h) if self.norm else (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()
        return self.head(h.tanh())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.lstm(x[..., None])[0][:, -1])


class Branching(nn.Module):
    """Looks at its numbers, which torch.func refuses; a twin takes the branch unseen."""

    def __init__(self, looks=True):
        super().__init__()
        self.head, self.looks = nn.Linear(2, 1), looks

    def forward(self, x):
        if not self.looks:
            return torch.where(x.mean() > 0, self.head(x).tanh(), self.head(x).sin())
        return self.head(x).tanh() if x.mean().item() > 0 else self.head(x).sin()


class Dropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(2, 64), nn.Dropout(), nn.Linear(64, 1)

    def forward(self, x):
        return self.head(self.drop(self.body(x).tanh()))


def twin(of, network):
    """The same learner with the same weights, and another network."""
    made = network().double()
    made.load_state_dict(of.network.state_dict())
    return dataclasses.replace(of, network=made)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
@pytest.mark.parametrize("mode", MODES)
def test_attention_is_its_formula(mode, checkpoint):
    of, tasks = learner(steps=2, network=Attention), regression()
    got = Unrolled(checkpoint=checkpoint)(of, of.meta(), tasks, MODES[mode](), 0).gradients
    assert_same(got, meta_gradient(twin(of, lambda: Attention(fused=False)), tasks))


@pytest.mark.parametrize("gradient", [Reptile(), Implicit()], ids=["Reptile", "iMAML"])
@pytest.mark.parametrize("mode", MODES)
def test_other_meta_gradients_take_attention_too(mode, gradient):
    of, tasks = learner(steps=2, network=Attention, proximity=gradient.proximity), regression()
    plain = twin(of, lambda: Attention(fused=False))
    got, expected = (gradient(each, each.meta(), tasks, MODES[mode](), 0).gradients for each in (of, plain))
    assert_same(got, expected)


@pytest.mark.parametrize("way", [{}, {"loop": True}, {"checkpoint": True}], ids=["func", "loop", "checkpoint"])
def test_attention_adapts_also_outside_a_meta_gradient(way):
    """The backward pass comes when ``adapt`` is over, and must find what it needs."""
    of, tasks = learner(steps=2, network=Attention), regression()
    slopes = []
    for fused in (True, False):
        net = twin(of, lambda fused=fused: Attention(fused)).network

        def loss(params, support, net=net):
            return nn.functional.mse_loss(torch.func.functional_call(net, params, (support[0],)), support[1])

        params = dict(net.named_parameters())
        adapted = adapt(loss, params, (tasks.support_x[0], tasks.support_y[0]), 2, SGD(0.2), **way)
        found = torch.autograd.grad(sum(p.square().sum() for p in adapted.values()), list(params.values()))
        slopes.append(dict(zip(params, found, strict=True)))
    assert_same(*slopes)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what torch.compile imports, torch 2.13
def test_compiled_attention_is_its_formula():
    of, tasks = learner(network=Attention), regression()
    got = Unrolled()(of, of.meta(), tasks, Execution("vmap", compile=True), 0).gradients
    assert_same(got, meta_gradient(twin(of, lambda: Attention(fused=False)), tasks))


def test_fused_attention_has_no_second_derivative():
    """Why there is anything to do; if this fails, PyTorch has learned it."""
    of, tasks = learner(steps=2, network=Attention), regression()
    with pytest.raises(RuntimeError, match="scaled_dot_product_flash_attention_for_cpu_backward"):
        meta_gradient(of, tasks)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_multi_head_attention_is_the_same_in_all_modes(training):
    of, tasks = learner(steps=2, network=MultiHead), regression()
    of.network.train(training)
    gradients, losses = [], []
    for make in MODES.values():
        gradients.append(Unrolled()(of, of.meta(), tasks, make(), 0).gradients)
        losses.append({"losses": evaluate(of, of.meta(), tasks, make(), 2).losses})
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = meta_gradient(of, tasks)
    for got, score in zip(gradients, losses, strict=True):
        assert_same(got, expected)
        assert_same(score, losses[-1])


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
@pytest.mark.parametrize("mode", MODES)
def test_batch_norm_without_running_statistics_is_its_formula(mode, checkpoint):
    names = [f"{part}.{what}" for part in ("body", "head") for what in ("weight", "bias")]
    of, tasks = learner(steps=2, network=Normalized, names=names), regression()
    got = Unrolled(checkpoint=checkpoint)(of, of.meta(), tasks, MODES[mode](), 0).gradients
    plain = Normalized(layer=False).double()
    plain.load_state_dict({name: of.network.state_dict()[name] for name in names})
    expected = meta_gradient(dataclasses.replace(of, network=plain), tasks)
    assert_same({name: g for name, g in got.items() if "norm" not in name}, expected)
    assert got["network.norm.weight"].abs().max() > 1e-3


@pytest.fixture
def running():
    """A network with running statistics, and a check that they are as they were."""
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    yield net
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_adaptation_by_loops_leaves_running_statistics_as_they_are(running, checkpoint):
    def loss(params, x):
        return torch.func.functional_call(running, params, (x,)).square().mean()

    adapted = adapt(loss, dict(running.named_parameters()), random(6, 2, seed=0), 2, SGD(0.1), checkpoint=checkpoint, loop=True)
    torch.autograd.grad(adapted["0.weight"].sum(), running[0].weight)


@pytest.mark.parametrize(
    "gradient", [Unrolled(), Unrolled(checkpoint=True), Reptile(), Implicit()], ids=["kept", "checkpointed", "Reptile", "iMAML"]
)
def test_meta_gradients_by_loops_leave_running_statistics_as_they_are(running, gradient):
    names = tuple(dict(running.named_parameters()))
    of = dataclasses.replace(learner(steps=2), network=running, names=names, proximity=gradient.proximity)
    gradient(of, of.meta(), regression(), Execution("loop"), 0)


def test_evaluation_by_loops_leaves_running_statistics_as_they_are(running):
    of = dataclasses.replace(learner(steps=2), network=running, names=tuple(dict(running.named_parameters())))
    evaluate(of, of.meta(), regression(), Execution("loop"), 2)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_loops_adapt_an_lstm(checkpoint):
    of, tasks = learner(SGD(0.3), 2, network=Recurrent), regression(features=3)
    got = Unrolled(checkpoint=checkpoint)(of, of.meta(), tasks, Execution("loop"), 0).gradients
    assert_same(got, meta_gradient(of, tasks))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_loops_adapt_what_torch_func_refuses(checkpoint):
    of, tasks = learner(steps=2, network=Branching), regression()
    got = Unrolled(checkpoint=checkpoint)(of, of.meta(), tasks, Execution("loop"), 0).gradients
    assert_same(got, meta_gradient(twin(of, lambda: Branching(looks=False)), tasks))
    told = evaluate(of, of.meta(), tasks, Execution("loop"), 2)
    silent = evaluate(twin(of, lambda: Branching(looks=False)), of.meta(), tasks, Execution("vmap"), 2)
    assert_same({"losses": told.losses}, {"losses": silent.losses})
    with pytest.raises(RuntimeError, match=r"vmap: It looks like you're calling \.item\(\)"):
        Unrolled()(of, of.meta(), tasks, Execution("vmap"), 0)


def identical_tasks():
    return TaskBatch(*(part[:1].expand(TASKS, *part.shape[1:]) for part in regression()))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
@pytest.mark.parametrize("randomness", ["different", "same"])
def test_dropout_differs_between_tasks_or_does_not(randomness, checkpoint):
    of = learner(steps=2, network=Dropout)
    torch.manual_seed(0)
    got = Unrolled(checkpoint=checkpoint)(of, of.meta(), identical_tasks(), Execution(randomness=randomness), 0)
    assert len(got.losses.unique()) == (TASKS if randomness == "different" else 1)
    assert all(g.isfinite().all() for g in got.gradients.values())


def test_a_checkpoint_drops_the_same_units_again():
    of, results = learner(steps=3, network=Dropout), []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        results.append(Unrolled(checkpoint=checkpoint)(of, of.meta(), regression(), Execution("loop"), 0).gradients)
    assert all(torch.equal(results[1][name], g) for name, g in results[0].items())


def test_dropout_under_vmap_is_an_error_unless_chosen():
    of = learner(network=Dropout)
    with pytest.raises(RuntimeError, match="randomness"):
        Unrolled()(of, of.meta(), regression(), Execution(), 0)


def float32_learner(checkpoint=False):
    of = learner(SGD(0.2, "tensor"))
    of.network.float()
    of.optimizer.float()
    return of, TaskBatch(*(part.float() for part in regression())), Unrolled(checkpoint=checkpoint)


BFLOAT = {
    "vmap": (Execution("vmap"), False),
    "chunked": (Execution("chunked", 2), False),
    "loop": (Execution("loop"), False),
    "vmap, checkpointed": (Execution("vmap"), True),
    "loop, checkpointed": (Execution("loop"), True),
    "compiled": (Execution("vmap", compile=True), False),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what torch.compile imports, torch 2.13
@pytest.mark.parametrize("how", BFLOAT)
def test_bfloat16_autocast_runs_in_each_mode(how):
    """Numbers of eight bits: a relative error of 2^-8 in each of some ten layers and derivatives, so a tenth in all.
    In float32 the error would be 1e-6; more than 1e-4 tells that autocast was at work."""
    execution, checkpoint = BFLOAT[how]
    of, tasks, unrolled = float32_learner(checkpoint)
    expected = Unrolled()(of, of.meta(), tasks, Execution("loop"), 0)
    with torch.autocast("cpu", torch.bfloat16):
        got = unrolled(of, of.meta(), tasks, execution, 0)
        told = evaluate(of, of.meta(), tasks, execution, 3)
    flat, precise = (torch.cat([step.gradients[name].flatten() for name in of.meta()]) for step in (got, expected))
    assert flat.dtype == torch.float32
    assert 1e-4 * precise.norm() < (flat - precise).norm() < 0.1 * precise.norm()
    assert (told.losses[:, 1] - expected.losses).abs().max() < 0.1 * expected.losses.max()
