"""Two processes with half of the tasks each against one with all of them."""

import os
import warnings

import pytest
import torch
from test_maml import LEARNERS, Recorder, fitted, sinusoids, trainer, weights
from torch import distributed as dist

from processes import two_ranks

KINDS = {
    "learned rates": lambda: LEARNERS["MAML++"](clip_norm=1.0),
    "several iterations in a step": lambda: LEARNERS["MAML++"](clip_norm=1.0, iterations_per_step=2),
    "Reptile": lambda: LEARNERS["Reptile"](),
    "iMAML": lambda: LEARNERS["iMAML"](),
    "loop": lambda: LEARNERS["loop"](),
}
STEPS = 3


def trained(kind, **settings):
    """Weights, what was logged, and what Lightning warned of."""
    logger = Recorder()
    data = sinusoids(iterations_per_epoch=STEPS, eval_tasks=7, eval_batch_size=2)  # blocks of 2, 2, 2 and 1
    settings = {"precision": "64-true", "logger": logger, **settings}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        module = fitted(KINDS[kind](), data, max_steps=STEPS, **settings)
        trainer(**settings).test(module, datamodule=data, verbose=False)
    assert module.trainer.global_step == 0  # the trainer that tests
    return weights(module).tolist(), logger.rows, [str(w.message).split("\n")[0] for w in warned]


def _in_a_process(rank, port, results):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
    }
    told = {kind: trained(kind, devices=2, strategy="ddp") for kind in KINDS}
    results.put((rank, told))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes():
    return dict(two_ranks(_in_a_process, told=2, seconds=240))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_as_good_as_one(two_processes, kind, float64):
    alone, rows, _ = trained(kind)
    assert [step for step, _ in rows] == [1, 2, 3, 3, 0]
    for rank in range(2):
        got, got_rows, _ = two_processes[rank][kind]
        # 1e-10: sums in another order, of numbers below 10.
        assert got == pytest.approx(alone, rel=0, abs=1e-10)
        for (step, metrics), (got_step, got_metrics) in zip(rows, got_rows, strict=True):
            assert got_step == step
            assert got_metrics.keys() == metrics.keys()
            for name, value in metrics.items():
                assert got_metrics[name] == pytest.approx(value, rel=0, abs=1e-10), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_warned_of(two_processes, kind):
    assert [text for text in two_processes[0][kind][2] if not text.startswith("`isinstance(treespec, LeafSpec)`")] == []
