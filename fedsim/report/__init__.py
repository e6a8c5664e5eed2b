"""The HTML report of a run: one self-contained file, for a reader who is no engineer."""

from fedsim.report.page import build_report, course_figure
from fedsim.report.population_page import write_population

__all__ = ["build_report", "course_figure", "write_population"]
