"""Nothing in a meta-iteration or an evaluation knows a device: on one without numbers all tensors stay there."""

import pytest
import torch
from test_maml import LEARNERS, sinusoids
from torch import nn

from gradgrad.adaptation import SGD, Adam, Unrolled
from gradgrad.adaptation.evaluation import evaluate
from gradgrad.batches import TaskBatch, TaskShape
from gradgrad.modules import MAML
from gradgrad.networks import Conv4

# iMAML solves by Hessian-vector products, which look at a number to see that it is one.
KINDS = {kind: made for kind, made in LEARNERS.items() if kind != "iMAML"} | {
    "Adam": lambda: MAML(LEARNERS["MAML"]().make_network, Adam(0.01), 3, meta_gradient=Unrolled(multi_step_iterations=9)),
    "clipped": lambda: MAML(LEARNERS["MAML"]().make_network, SGD(0.1, "tensor", True, clip_norm=1.0), 2),
    "checkpointed": lambda: MAML(LEARNERS["MAML"]().make_network, inner_steps=2, meta_gradient=Unrolled(checkpoint=True)),
}


def elsewhere(module, shape, tasks):
    module._build(shape)
    module.to("meta")
    tasks = TaskBatch(*(torch.empty(part.shape, dtype=part.dtype, device="meta") for part in tasks))
    meta = module.learner.meta()
    step = module.meta_gradient(module.learner, meta, tasks, module.execution, 0)
    told = evaluate(module.learner, meta, tasks, module.execution, 3, 1, keep_params=True)
    assert step.gradients.keys() == meta.keys()
    assert all(g.shape == meta[name].shape for name, g in step.gradients.items())
    found = [*step.gradients.values(), step.losses, step.accuracies, *told.params.values(), *told[1:5], module.loss(tasks)]
    assert {tensor.device.type for tensor in found} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
def test_regression(kind):
    tasks = sinusoids().tasks("test", 0, 4)
    elsewhere(KINDS[kind](), TaskShape((1,), 1, classification=False), tasks)


@pytest.mark.parametrize("mode", ["auto", "chunked", "loop"])
def test_classification(mode):
    images, classes = torch.zeros(3, 5, 1, 28, 28), torch.arange(5).expand(3, 5)
    module = MAML(lambda c, w: Conv4(c, w, 8), SGD(0.1), adapt="^(?!.*norm)", mode=mode, chunk_size=2)
    elsewhere(module, TaskShape((1, 28, 28), 5, classification=True), TaskBatch(images, classes, images, classes))
    assert module.execution.mode == {"auto": "vmap"}.get(mode, mode)  # only on a CPU by loop


def test_it_would_be_noticed():
    class Stubborn(nn.Module):
        def __init__(self, features, outputs):
            super().__init__()
            self.layer = nn.Linear(features, outputs)

        def forward(self, x):
            return self.layer(x) + torch.ones(len(x), 1, device="cpu")

    with pytest.raises(RuntimeError, match="meta"):
        elsewhere(MAML(Stubborn), TaskShape((1,), 1, classification=False), sinusoids().tasks("test", 0, 4))
