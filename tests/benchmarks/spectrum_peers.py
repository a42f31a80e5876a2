"""Two nets on a fixed batch, the true top of their Hessians' spectra, and how others find it.

Each peer takes (problem, k), makes its operator anew, and gives the top k eigenvalues in any order.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from gradgrad.networks import MLP

CLASSES = 10


class Problem(NamedTuple):
    net: nn.Module
    batch: tuple[Tensor, Tensor]
    criterion: nn.Module

    def loss(self, batch):
        return self.criterion(self.net(batch[0]), batch[1])

    def gradient(self):
        return torch.autograd.grad(self.loss(self.batch), list(self.net.parameters()))


def draw(count, shape):
    """As many of each class: a pattern of its own, a mean that is not zero (as images have one), and noise."""
    y = torch.arange(count) % CLASSES
    return torch.rand(shape) + 0.5 * torch.randn(CLASSES, *shape)[y] + 0.5 * torch.randn(count, *shape), y


def mlp():
    """64-256-256-10, tanh: 85,002 parameters."""
    torch.manual_seed(0)
    return Problem(MLP(64, CLASSES, [256, 256]), draw(256, (64,)), nn.CrossEntropyLoss())


def cnn():
    """Two convolutions and two linear layers, ReLU, 16x16 pixels: 9,802 parameters."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, CLASSES)),
    )
    return Problem(net, draw(128, (1, 16, 16)), nn.CrossEntropyLoss())


# The steps of SGD after which it is measured: in the middle of training, with losses of about 0.1 and 1.
PROBLEMS = {"85k MLP, batch 256": (mlp, 100), "10k CNN, batch 128": (cnn, 150)}


def descend(problem, steps, rows=64, lr=0.05):
    """Take steps of SGD on random rows of the batch."""
    x, y = problem.batch
    optimizer = torch.optim.SGD(problem.net.parameters(), lr=lr)
    for _ in range(steps):
        chosen = torch.randint(len(x), (rows,))
        optimizer.zero_grad()
        problem.loss((x[chosen], y[chosen])).backward()
        optimizer.step()
    optimizer.zero_grad()


def double_backward(net, criterion, x, y):
    """The Hessian written plainly, by a fresh double backward, in the net's dtype."""
    params = list(net.parameters())

    def product(vector):
        gradients = torch.autograd.grad(criterion(net(x), y), params, create_graph=True)
        along = torch.cat([g.flatten() for g in gradients]) @ torch.from_numpy(vector.reshape(-1))
        return torch.cat([h.flatten() for h in torch.autograd.grad(along, params)]).numpy()

    size = sum(p.numel() for p in params)
    return LinearOperator((size, size), matvec=product, dtype=np.float64)


def truth(problem, k, near=None):
    """The top k eigenvalues in float64 to 1e-10, descending; they are the largest in magnitude too, as some peers want them."""
    x, y = problem.batch
    operator = double_backward(problem.net.double(), problem.criterion, x.double(), y)
    values = eigsh(operator, k=k, which="LM", tol=1e-10, v0=None if near is None else near.double().numpy())[0]
    problem.net.float()
    assert values.min() > 0, values
    return np.sort(values)[::-1]


def pyhessian(problem, k):
    """Deflated power iteration until an eigenvalue changes by less than 1e-3, on a graph that is kept: its defaults."""
    library = pytest.importorskip("pyhessian")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls backward(create_graph=True)
        values, _ = library.hessian(problem.net, problem.criterion, data=problem.batch, cuda=False).eigenvalues(top_n=k)
    problem.net.zero_grad(set_to_none=True)  # else the graph lives on in .grad
    return values


def eigenthings(solver):
    """Give a peer from the name of a function of hessian_eigenthings, with that function's defaults."""

    def peer(problem, k):
        library = pytest.importorskip("hessian_eigenthings")
        operator = library.HessianOperator(problem.net, [problem.batch], library.supervised_loss(problem.criterion))
        return getattr(library, solver)(operator, k=k).eigenvalues.tolist()

    return peer


def curvlinops():
    """Import it; while it is imported it scripts functions, which torch deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("curvlinops")


def curvlinops_eigsh(problem, k):
    """Its operator, without the check of determinism, which costs more products, in SciPy's Lanczos at tolerance 1e-3."""
    params = list(problem.net.parameters())
    operator = curvlinops().HessianLinearOperator(
        problem.net, problem.criterion, params, [problem.batch], check_deterministic=False
    )
    return eigsh(operator.to_scipy(dtype=np.float32), k=k, which="LA", tol=1e-3)[0].tolist()


PEERS = {
    "PyHessian": pyhessian,
    "hessian-eigenthings power": eigenthings("deflated_power_iteration"),
    "hessian-eigenthings lanczos": eigenthings("lanczos"),
    "curvlinops, eigsh": curvlinops_eigsh,
}
