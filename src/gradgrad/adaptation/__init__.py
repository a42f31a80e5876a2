"""The inner loop as a differentiable function, and the meta-gradients of the MAML family."""

from gradgrad.adaptation.adapt import adapt
from gradgrad.adaptation.execution import Execution
from gradgrad.adaptation.implicit import Implicit
from gradgrad.adaptation.inner_optimizer import InnerOptimizer
from gradgrad.adaptation.inner_optimizers import SGD, Adam, Momentum
from gradgrad.adaptation.learner import Learner
from gradgrad.adaptation.meta_gradient import MetaGradient, MetaStep
from gradgrad.adaptation.reptile import Reptile
from gradgrad.adaptation.unrolled import Unrolled

__all__ = [
    "SGD",
    "Adam",
    "Execution",
    "Implicit",
    "InnerOptimizer",
    "Learner",
    "MetaGradient",
    "MetaStep",
    "Momentum",
    "Reptile",
    "Unrolled",
    "adapt",
]
