"""Sweeps: one scenario at many settings and seeds, resumable, with a record of every run."""

from fedsim.sweeps.result import SweepResult
from fedsim.sweeps.running import sweep

__all__ = ["SweepResult", "sweep"]
