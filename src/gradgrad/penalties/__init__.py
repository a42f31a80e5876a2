"""Terms that a loss adds, as ``nn.Module`` s named in YAML."""

from gradgrad.penalties.gradient_norm import GradientNormPenalty
from gradgrad.penalties.input_gradient import InputGradientPenalty
from gradgrad.penalties.penalize import Penalized, penalize
from gradgrad.penalties.penalty import Penalty, PenaltyTerm

__all__ = ["GradientNormPenalty", "InputGradientPenalty", "Penalized", "Penalty", "PenaltyTerm", "penalize"]
