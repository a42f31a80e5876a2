"""All that touches MLflow. Import the logger from here; the rest is for the command line."""

from gradgrad.tracking.logger import MLflowLogger

__all__ = ["MLflowLogger"]
