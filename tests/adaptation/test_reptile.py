"""Reptile against a loop by hand."""

import pytest
import torch
from by_hand import assert_same, leaves, path
from family import HEAD, MODES, TASKS, learner, regression

from gradgrad.adaptation import SGD, Adam, Reptile
from gradgrad.errors import UsageError


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.05, betas=(0.0, 0.999))], ids=["SGD", "Adam"])
def test_it_moves_towards_the_mean_of_what_the_tasks_found(mode, optimizer):
    of, tasks = learner(optimizer, 4), regression()
    got = Reptile()(of, of.meta(), tasks, MODES[mode](), 0)
    found, losses = [], []
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        x, y = torch.cat([support_x, query_x]), torch.cat([support_y, query_y])  # one set: Reptile holds nothing out
        found.append(path(of, leaves(of.meta()), x, y, 4)[-1])
        losses.append(of.criterion(torch.func.functional_call(of.network, found[-1], (query_x,)), query_y).detach())
    expected = {name: p.detach() - sum(phi[name[8:]] for phi in found).detach() / TASKS for name, p in of.meta().items()}
    assert_same(got.gradients, expected)
    torch.testing.assert_close(got.losses, torch.stack(losses), rtol=0, atol=1e-10)
    assert got.accuracies.isnan().all()
    assert not any(tensor.requires_grad for tensor in (got.losses, *got.gradients.values()))


def test_what_reptile_refuses():
    assert Reptile().check(learner()) is None
    assert not Reptile().compiles
    remedy = r"\nwrite:    learn: null and adapt: null, or meta_gradient: gradgrad\.adaptation\.Unrolled$"
    with pytest.raises(
        UsageError, match=r"^Reptile got an inner optimizer with learned rates; it moves only what adapts\." + remedy
    ):
        Reptile().check(learner(SGD(0.1, "element")))
    idle = r"^Reptile got parameters that do not adapt, body\.weight for one; it moves only what adapts\." + remedy
    with pytest.raises(UsageError, match=idle):
        Reptile().check(learner(names=HEAD))
