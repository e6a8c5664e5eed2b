"""Sweeps: one scenario at many settings and seeds, resumable, with a record of every run."""

from fedsim.sweeps.running import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
