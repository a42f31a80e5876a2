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
