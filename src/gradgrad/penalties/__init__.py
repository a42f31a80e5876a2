"""Terms that a loss adds, as ``nn.Module`` s named in YAML."""

from gradgrad.penalties.gradient_norm import GradientNormPenalty, PenaltyTerm

__all__ = ["GradientNormPenalty", "PenaltyTerm"]
