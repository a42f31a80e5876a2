"""LightningDataModules, and the tables that they read."""

from gradgrad.datamodules.blobs import GaussianBlobs
from gradgrad.datamodules.chebyshev import ChebyshevRegression
from gradgrad.datamodules.omniglot import OmniglotTasks
from gradgrad.datamodules.own_classes import ArrayTasks, FolderTasks
from gradgrad.datamodules.sinusoid import SinusoidTasks
from gradgrad.datamodules.tabular import TabularRegression
from gradgrad.datamodules.whitened_linear import WhitenedLinearRegression

__all__ = [
    "ArrayTasks",
    "ChebyshevRegression",
    "FolderTasks",
    "GaussianBlobs",
    "OmniglotTasks",
    "SinusoidTasks",
    "TabularRegression",
    "WhitenedLinearRegression",
]
