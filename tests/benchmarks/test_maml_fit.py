"""What `gradgrad fit` costs beside the compiled meta-iterations that it makes, in one run: `make bench`."""

import time

import pytest
import torch
from torch import nn

from conftest import CONFIGS
from gradgrad.adaptation import SGD, Execution, Learner, Unrolled
from gradgrad.datamodules import SinusoidTasks
from gradgrad.modules import MAML
from gradgrad.networks import MLP

pytestmark = pytest.mark.usefixtures("one_thread")
ITERATIONS, BLOCK = 10_000, 100


def alone():
    """Give the same meta-iteration with nothing around it."""
    network = MLP(1, 1, [40, 40], "relu", init_std=0.01)
    learner = Learner(network, nn.MSELoss(), SGD(lr=0.01), tuple(dict(network.named_parameters())), 1)
    meta, execution, unrolled = learner.meta(), Execution(compile=True), Unrolled()
    adam, tasks = torch.optim.Adam(meta.values(), lr=1e-3, fused=True), SinusoidTasks(shots=10).tasks("train", 0, 25)

    def iterate():
        found = unrolled(learner, meta, tasks, execution, 0)
        for name, param in meta.items():
            param.grad = found.gradients[name]
        adam.step()

    iterate()
    return iterate


def test_fit_in_meta_iterations(project, run_cli, monkeypatch):
    """With MLflow and the progress bar; validations (one in 5,000 iterations) and checkpoints are counted, starting up is not."""
    iterate, plain, steps, begun = alone(), [], [], []
    training_step = MAML.training_step

    def timed(module, batch, batch_idx):
        # Between the blocks of the fit a block of the other: both meet the same neighbours on this machine.
        if len(steps) == 2:  # compiled and warm
            begun.append(time.perf_counter())
        if begun:
            start = time.perf_counter()
            for _ in range(BLOCK):
                iterate()
            plain.append(time.perf_counter() - start)
        steps.append(1)
        return training_step(module, batch, batch_idx)

    monkeypatch.setattr(MAML, "training_step", timed)
    ended = []
    monkeypatch.setattr(MAML, "on_train_end", lambda module: ended.append(time.perf_counter()), raising=False)
    code, _, said = run_cli("fit", "-c", CONFIGS / "maml_sinusoid.yaml", f"--trainer.max_steps={ITERATIONS}")
    assert code == 0, said
    blocks = len(steps) - 2
    inside = (ended[0] - begun[0] - sum(plain)) / blocks / BLOCK
    outside = sum(plain) / len(plain) / BLOCK
    print(f"\nms per meta-iteration: alone {1e3 * outside:.3f}, in gradgrad fit {1e3 * inside:.3f}, ratio {inside / outside:.3f}")
