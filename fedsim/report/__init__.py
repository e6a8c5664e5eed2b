"""The HTML report of a run: one self-contained file, for a reader who is no engineer."""

from fedsim.report.page import build_report

__all__ = ["build_report"]
