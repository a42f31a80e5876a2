"""gradgrad: a PyTorch Lightning template for everything that differentiates through a gradient."""

__version__ = "0.1.0"
