"""Finished runs side by side: what differs in them, how good they are, what they spent, who fares how."""

from fedsim.comparing.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
