"""What the backward pass of the inner loop holds on to, counted in bytes of live tensors."""

import pytest
import torch
from family import random
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradgrad.adaptation import SGD, adapt

WIDTH, ROWS = 16, 400
PARAMS = 8 * (WIDTH + WIDTH)  # bytes
ACTIVATION = 8 * ROWS * WIDTH


class LiveBytes(TorchDispatchMode):
    """Follow every tensor that an operation makes, until it is gone."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.alive = {place: held for place, held in self.alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return made


def loss(params, x):
    return ((x * params["w"]).tanh() @ params["v"]).square().mean()


def peak(steps, checkpoint):
    params = {name: (0.1 * random(WIDTH, seed=seed)).requires_grad_() for seed, name in enumerate("wv")}
    x = random(ROWS, 1, seed=3)
    with LiveBytes() as live:
        adapted = adapt(loss, params, x, steps, SGD(0.1), checkpoint=checkpoint, loop=True)
        torch.autograd.grad(loss(adapted, x), list(params.values()))
    return live.peak


def test_the_counter_counts():
    with LiveBytes() as live:
        a = torch.ones(1000, dtype=torch.float64)
        for _ in range(5):
            b = a + 1
        del b
        a.view(10, 100)
    assert live.peak == 3 * 8000  # the old b, while the new one is made
    assert sum(size for reference, size in live.alive.values() if not reference.expired()) == 8000


@pytest.mark.parametrize("steps", [2, 6])
def test_checkpoints_keep_no_graph_of_a_step(steps):
    """A kept step holds its activations, at least two; a checkpointed one its parameters, and the state of the random generator,
    5056 bytes, with a few scalars: less than two parameters and a half in all."""
    kept, recomputed = ((peak(steps + 4, checkpoint) - peak(steps, checkpoint)) / 4 for checkpoint in (False, True))
    assert kept >= 2 * ACTIVATION
    assert recomputed <= 2.5 * PARAMS + len(torch.get_rng_state())
    assert recomputed < kept / 10
