"""One table of tiny problems; a new penalty or product inherits all of them."""

import torch
from torch import nn

from oracles import LinearRegression, Quadratic

CLOSED_FORMS = [Quadratic(5, seed=0), Quadratic(1, seed=1), LinearRegression(7, 3, seed=2)]


def network(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), activation(), nn.Linear(5, 1)).double()


def batch(rows=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return x, x.square().sum(1, keepdim=True)


class Problem(nn.Module):
    """A closed form as a module that can be penalized; the batch is not used."""

    def __init__(self, problem, theta=None):
        super().__init__()
        self.problem = problem
        start = torch.linspace(-1, 2, problem.size, dtype=torch.float64) if theta is None else theta
        self.theta = nn.Parameter(start)

    def loss(self, batch):
        return self.problem.loss(self.theta)


class Regression(nn.Module):
    """A network with the mean square as its loss, as a user would write it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        x, y = batch
        return (self(x) - y).square().mean()


def flat_gradients(module):
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in module.parameters()])
