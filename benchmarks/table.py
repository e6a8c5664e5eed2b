"""The results as Markdown."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]

# Heading, the engine that is divided, the engine it is divided by.
RATIOS = (
    ("plain loop / fedsim", "plain", "fedsim"),
    ("torch path / fedsim", "fedsim-torch", "fedsim"),
    ("Flower / fedsim", "flower", "fedsim"),
    ("pfl / fedsim", "pfl", "fedsim"),
    ("bare arithmetic / fedsim", "bare", "fedsim"),
    ("Opacus / fedsim, DP", "opacus", "fedsim-dp"),
    ("torch path / fedsim, DP", "fedsim-torch-dp", "fedsim-dp"),
    ("Flower + Opacus / fedsim, DP", "flower-opacus", "fedsim-dp"),
    ("fedsim: DP / no DP", "fedsim-dp", "fedsim"),
)


def seconds_table(results: Results) -> str:
    """Median seconds a round: rows are workloads, columns engines."""
    names = list(dict.fromkeys(name for engines in results.values() for name in engines))
    rows = [[workload, *(_seconds(engines, name) for name in names)] for workload, engines in results.items()]
    return _markdown(["seconds a round", *names], rows)


def ratio_table(results: Results) -> str:
    """How many times as long as fedsim others take: rows are workloads."""
    columns = [ratio for ratio in RATIOS if any({ratio[1], ratio[2]} <= engines.keys() for engines in results.values())]
    rows = [[workload, *(_ratio(engines, *pair) for _, *pair in columns)] for workload, engines in results.items()]
    return _markdown(["workload", *(heading for heading, _, _ in columns)], rows)


def scaling_table(points: list[dict[str, Any]]) -> str:
    """A scaling curve."""
    return _markdown(list(points[0]), [[f"{value:,.4g}" for value in point.values()] for point in points])


def _seconds(engines: dict[str, Any], name: str) -> str:
    return f"{engines[name]['seconds_per_round']:.3g}" if name in engines else ""


def _ratio(engines: dict[str, Any], above: str, below: str) -> str:
    if above not in engines or below not in engines:
        return ""
    return f"{engines[above]['seconds_per_round'] / engines[below]['seconds_per_round']:.3g}"


def _markdown(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
