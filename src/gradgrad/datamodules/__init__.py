"""LightningDataModules, and the tables that they read."""

from gradgrad.datamodules.tabular import TabularRegression

__all__ = ["TabularRegression"]
