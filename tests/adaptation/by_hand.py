"""The meta-loss of a learner by the plainest code: one task after another, optimizers written out, torch.autograd."""

import torch
from torch.func import functional_call

from gradgrad.adaptation import Adam, Momentum


def split(learner, meta):
    """Give parameters that adapt, the others, and learned rates."""
    params = {name: meta.get(f"network.{name}", p) for name, p in learner.network.named_parameters()}
    fast = {name: p for name, p in params.items() if name in learner.names}
    slow = {name: p for name, p in params.items() if name not in learner.names}
    return fast, slow, {name[6:]: p for name, p in meta.items() if name.startswith("rates.")}


def loss_of(learner, fast, slow, x, y):
    return learner.criterion(functional_call(learner.network, {**fast, **slow}, (x,)), y)


def slopes(value, params, create_graph=True):
    found = torch.autograd.grad(value, list(params.values()), create_graph=create_graph, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), found, strict=True)}


def clipped(gradients, norm):
    length = torch.cat([g.flatten() for g in gradients.values()]).norm()
    return {name: g * norm / length for name, g in gradients.items()} if length > norm else gradients


def direction(optimizer, g, memory, number):
    """Turn one tensor's gradient into a direction; ``memory`` is a dict to keep moments in."""
    if isinstance(optimizer, Momentum):
        memory["m"] = optimizer.momentum * memory.get("m", 0) + g
        return g + optimizer.momentum * memory["m"] if optimizer.nesterov else memory["m"]
    if isinstance(optimizer, Adam):
        (b1, b2), t = optimizer.betas, number + 1
        memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
        return memory["m"] / (1 - b1**t) / (memory["v"] / (1 - b2**t) + optimizer.eps) ** 0.5
    return g


def path(learner, meta, x, y, steps, first_order=False, anchor=0.0):
    """List the adapted parameters after 0, ..., steps steps; ``anchor`` is the weight of the proximal term."""
    optimizer, (fast, slow, rates) = learner.optimizer, split(learner, meta)
    fast = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in fast.items()}
    start, memories, visited = fast, {name: {} for name in fast}, [fast]
    for number in range(steps):
        gradients = slopes(loss_of(learner, fast, slow, x, y), fast)
        gradients = {name: g + anchor * (fast[name] - start[name]) for name, g in gradients.items()}
        if first_order:
            gradients = {name: g.detach() for name, g in gradients.items()}
        if optimizer.clip_norm:
            gradients = clipped(gradients, optimizer.clip_norm)
        moved = {}
        for name, p in fast.items():
            rate = rates.get(name, torch.tensor(optimizer.lr, dtype=p.dtype))
            if optimizer.per_step:
                rate = rate[number] if number < len(rate) else rate[-1]
            moved[name] = p - rate * direction(optimizer, gradients[name], memories[name], number)
        fast = moved
        visited.append(fast)
    return visited


def meta_loss(learner, meta, tasks, first_order=False, weights=None):
    """Average query losses over tasks; ``weights`` are those of the losses after 1, 2, ... steps."""
    total, (_, slow, _) = 0.0, split(learner, meta)
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        visited = path(learner, meta, support_x, support_y, learner.steps, first_order)
        losses = [loss_of(learner, fast, slow, query_x, query_y) for fast in visited[1:]]
        total = total + (losses[-1] if weights is None else sum(w * each for w, each in zip(weights, losses, strict=True)))
    return total / len(tasks[0])


def leaves(meta):
    return {name: p.detach().clone().requires_grad_() for name, p in meta.items()}


def meta_gradient(learner, tasks, first_order=False, weights=None):
    meta = leaves(learner.meta())
    return slopes(meta_loss(learner, meta, tasks, first_order, weights), meta, create_graph=False)


def assert_slopes(got, function, meta, step=2e-5):
    """Compare a gradient with central differences of a smooth function, along a random direction in each tensor.

    The slope S(h) of a central difference is off by h^2 f'''/6 + O(h^4) and by rounding. S(2h) - S(h) is three times the first
    term, so that it bounds it with room to spare. A value of f below 10, through some hundred operations, is uncertain by 1000
    eps, the slope by that over h. Random components find any number that is wrong. A bound above 1e-6 would prove nothing.
    """
    assert got.keys() == meta.keys()
    for seed, (name, p) in enumerate(meta.items()):
        along = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=p.dtype)

        def value(h, name=name, p=p, along=along):
            return function({**leaves(meta), name: (p.detach() + h * along).requires_grad_()}).item()

        assert abs(value(0)) < 10
        near, far = ((value(h) - value(-h)) / (2 * h) for h in (step, 2 * step))
        bound = abs(far - near) + 1000 * torch.finfo(p.dtype).eps / step
        assert bound < 1e-6, (name, bound)
        assert abs((got[name] * along).sum().item() - near) <= bound, (name, near, bound)


def assert_same(got, expected, tolerance=1e-10):
    """Compare tensors by name. 1e-10 is what the modes promise each other: numbers are below 10, and some thousand roundings of
    1e-16 each add up to 1e-12 at worst."""
    assert got.keys() == expected.keys()
    for name, g in got.items():
        torch.testing.assert_close(
            g.detach(), expected[name].detach(), rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
