"""One second-order MAML meta-iteration as others write it. Each peer takes (weights, batches, steps) and gives a callable.

The weights are those of a 1-40-40-1 ReLU network in torch's order (weight, bias, weight, ...), copied, float32. A batch is
(support x, support y, query x, query y), each with the tasks first. One call adapts to every task of the next batch by
``steps`` steps of SGD, takes one step of Adam on the mean of the tasks' query losses, and gives the new weights.
"""

from itertools import cycle

import pytest
import torch
from torch import nn
from torch.nn import functional

INNER_RATE, META_RATE = 0.01, 1e-3


def network(weights):
    shapes = [weight.shape for weight in weights[::2]]
    layers = [layer for fan_out, fan_in in shapes for layer in (nn.Linear(fan_in, fan_out), nn.ReLU())][:-1]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for p, weight in zip(net.parameters(), weights, strict=True):
            p.copy_(weight)
    return net


def plain_loop(weights, batches, steps):
    """``torch.autograd.grad(create_graph=True)`` and a list of fast weights, task after task."""
    params = [weight.detach().clone().requires_grad_() for weight in weights]
    optimizer = torch.optim.Adam(params, META_RATE)
    turn = cycle(batches)

    def loss(values, x, y):
        for i in range(0, len(values), 2):
            x = functional.linear(functional.relu(x) if i else x, values[i], values[i + 1])
        return functional.mse_loss(x, y)

    def iterate():
        losses = []
        for support_x, support_y, query_x, query_y in zip(*next(turn), strict=True):
            fast = params
            for _ in range(steps):
                gradients = torch.autograd.grad(loss(fast, support_x, support_y), fast, create_graph=True)
                fast = [p - INNER_RATE * g for p, g in zip(fast, gradients, strict=True)]
            losses.append(loss(fast, query_x, query_y))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        return params

    return iterate


def higher_loop(weights, batches, steps):
    """As higher's examples/maml-omniglot.py: one context and one backward per task."""
    higher = pytest.importorskip("higher")
    net = network(weights)
    optimizer = torch.optim.Adam(net.parameters(), META_RATE)
    inner = torch.optim.SGD(net.parameters(), INNER_RATE)
    turn = cycle(batches)

    def iterate():
        batch = next(turn)
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, differentiable):
                for _ in range(steps):
                    differentiable.step(functional.mse_loss(fast(support_x), support_y))
                (functional.mse_loss(fast(query_x), query_y) / len(batch[0])).backward()
        optimizer.step()
        return list(net.parameters())

    return iterate


def torchopt_loop(weights, batches, steps):
    """As TorchOpt's examples/few-shot/maml_omniglot.py: one network that goes back to its first state after each task."""
    torchopt = pytest.importorskip("torchopt")
    net = network(weights)
    params = list(net.parameters())
    optimizer = torch.optim.Adam(params, META_RATE)
    inner = torchopt.MetaSGD(net, lr=INNER_RATE)
    turn = cycle(batches)

    def iterate():
        losses = []
        optimizer.zero_grad()
        first = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
        fresh = torchopt.extract_state_dict(inner, by="reference")
        for support_x, support_y, query_x, query_y in zip(*next(turn), strict=True):
            for _ in range(steps):
                inner.step(functional.mse_loss(net(support_x), support_y))
            losses.append(functional.mse_loss(net(query_x), query_y))
            torchopt.recover_state_dict(net, first)
            torchopt.recover_state_dict(inner, fresh)
        torch.stack(losses).mean().backward()
        optimizer.step()
        return params

    return iterate


def one_thread_jax():
    """Import JAX so that its CPU client, made here, works with one thread.

    The client reads ``NPROC`` once. XLA_FLAGS (--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1) does not
    do it: with it a 1500x1500 product still takes two cores (jaxlib 0.10.2, 2 cores).
    """
    jax = pytest.importorskip("jax")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC", "1")
        jax.devices("cpu")
    return jax


def jax_jit(weights, batches, steps):
    """vmap over tasks, the whole meta-iteration with its Adam in one jit; waits for the result."""
    jax = one_thread_jax()
    jnp = jax.numpy
    params = [jnp.array(weight.detach().numpy()) for weight in weights]
    turn = cycle([tuple(jnp.array(part.numpy()) for part in batch) for batch in batches])

    def loss(values, x, y):
        for i in range(0, len(values), 2):
            x = (jax.nn.relu(x) if i else x) @ values[i].T + values[i + 1]
        return ((x - y) ** 2).mean()

    def adapted_loss(values, support_x, support_y, query_x, query_y):
        for _ in range(steps):
            gradients = jax.grad(loss)(values, support_x, support_y)
            values = [p - INNER_RATE * g for p, g in zip(values, gradients, strict=True)]
        return loss(values, query_x, query_y)

    def meta_loss(values, batch):
        return jax.vmap(adapted_loss, in_axes=(None, 0, 0, 0, 0))(values, *batch).mean()

    @jax.jit
    def step(values, means, squares, count, batch):
        gradients = jax.grad(meta_loss)(values, batch)
        count = count + 1
        means = [0.9 * m + 0.1 * g for m, g in zip(means, gradients, strict=True)]
        squares = [0.999 * v + 0.001 * g**2 for v, g in zip(squares, gradients, strict=True)]
        values = [
            p - META_RATE * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
            for p, m, v in zip(values, means, squares, strict=True)
        ]
        return values, means, squares, count

    zeros = [jnp.zeros_like(p) for p in params]
    state = params, zeros, zeros, jnp.float32(0)

    def iterate():
        nonlocal state
        state = jax.block_until_ready(step(*state, next(turn)))
        return state[0]

    return iterate


PEERS = {"plain loop": plain_loop, "higher": higher_loop, "TorchOpt": torchopt_loop, "JAX": jax_jit}
