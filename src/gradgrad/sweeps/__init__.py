"""Sweeps by config file: what to try next, where it runs, what it shows."""
