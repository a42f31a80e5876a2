"""Nothing here knows a device: the one without numbers is enough to see that all tensors stay where they are."""

import torch
from torch import nn

from gradgrad.penalties import GradientNormPenalty, penalize
from gradgrad.penalties.evaluation import LossEvaluation


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def loss(self, batch):
        return (self.net(batch[0]) - batch[1]).square().mean()


def test_an_exact_penalty_stays_on_its_device(monkeypatch):
    monkeypatch.setattr(LossEvaluation, "require_gradient", lambda self: None)  # there is no number to look at
    module = Regression().to("meta")
    batch = torch.empty(8, 3, device="meta"), torch.empty(8, 1, device="meta")
    for penalty in (GradientNormPenalty(0.5), GradientNormPenalty(0.5, p=4, squared=False), GradientNormPenalty(0.5, p="inf")):
        penalty.proved = True  # the proof reads the device's generator
        penalized = penalize(module, batch, [penalty])
        penalized.total.backward()
        assert {t.device.type for t in (penalized.total, penalized.penalty, *penalized.norms.values())} == {"meta"}
    assert {p.grad.device.type for p in module.parameters()} == {"meta"}
