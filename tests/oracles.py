"""Closed forms: what the derivatives of small problems are, worked out on paper."""

import torch


class Quadratic:
    """Loss theta' A theta / 2 + b' theta: gradient A theta + b, Hessian A; its squared gradient norm: 2 A (A theta + b)."""

    def __init__(self, size, seed):
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        self.matrix = (root + root.T) / 2
        self.vector = torch.randn(size, generator=generator, dtype=torch.float64)

    @property
    def size(self):
        return len(self.vector)

    def hessian(self):
        return self.matrix

    def loss(self, theta):
        return theta @ self.matrix @ theta / 2 + self.vector @ theta

    def gradient(self, theta):
        return self.matrix @ theta + self.vector

    def penalty_gradient(self, theta, weight):
        return 2 * weight * self.matrix @ self.gradient(theta)


class LinearRegression:
    """Mean squared error of x w against y: gradient 2 x'(x w - y) / n, Hessian 2 x'x / n."""

    def __init__(self, rows, size, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(rows, size, generator=generator, dtype=torch.float64)
        self.y = torch.randn(rows, generator=generator, dtype=torch.float64)

    @property
    def size(self):
        return self.x.shape[1]

    def hessian(self):
        return 2 * self.x.T @ self.x / len(self.y)

    def loss(self, theta):
        return (self.x @ theta - self.y).square().mean()

    def gradient(self, theta):
        return 2 * self.x.T @ (self.x @ theta - self.y) / len(self.y)

    def penalty_gradient(self, theta, weight):
        return 2 * weight * self.hessian() @ self.gradient(theta)
