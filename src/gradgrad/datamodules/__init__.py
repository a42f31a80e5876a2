"""LightningDataModules, and the tables that they read."""

from gradgrad.datamodules.omniglot import OmniglotTasks
from gradgrad.datamodules.own_classes import ArrayTasks, FolderTasks
from gradgrad.datamodules.sinusoid import SinusoidTasks
from gradgrad.datamodules.tabular import TabularRegression

__all__ = ["ArrayTasks", "FolderTasks", "OmniglotTasks", "SinusoidTasks", "TabularRegression"]
