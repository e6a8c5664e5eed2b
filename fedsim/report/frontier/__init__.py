"""The frontier report of a sweep: what privacy costs, in one self-contained file."""

from fedsim.report.frontier.page import build_frontier

__all__ = ["build_frontier"]
