"""Which settings are worth having: the Pareto set, its knee, and the cheapest one that is good enough."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.report.frontier.settings import Setting

ENOUGH = 0.95


@dataclass(frozen=True)
class Point:
    """A setting with what it costs and how good it is."""

    setting: Setting
    cost: float
    score: float


def pareto(points: Sequence[Point], higher: bool) -> list[Point]:
    """The points to which no other is at least as good on both and better on one, by rising cost.

    Of equal points the first stays.
    """
    sign = 1 if higher else -1
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -sign * each.score, each.setting.number)):
        if not kept or sign * point.score > sign * kept[-1].score:
            kept.append(point)
    return kept


def knee(front: Sequence[Point]) -> Point | None:
    """Where a rising front bends most: farthest above the straight line between its ends, cost on a log scale.

    Both axes are scaled to 0..1 first (Satopaa et al. 2011, "Kneedle"). None without a bend of at least 5 % of the
    height, and for fewer than three points of finite, positive cost.
    """
    points = [point for point in front if 0 < point.cost < math.inf]
    if len(points) < 3:
        return None
    (x0, y0), (x1, y1) = ((math.log(point.cost), point.score) for point in (points[0], points[-1]))
    above = [(point.score - y0) / (y1 - y0) - (math.log(point.cost) - x0) / (x1 - x0) for point in points]
    best = max(range(len(points)), key=above.__getitem__)
    return points[best] if above[best] >= 0.05 else None


def threshold(reference: float, higher: bool) -> float | None:
    """What counts as 95 % as good as a reference; None where a ratio means nothing, because it is not positive."""
    if reference <= 0:
        return None
    return ENOUGH * reference if higher else reference / ENOUGH


def spare(setting: Setting, reference: Setting, higher: bool) -> list[float]:
    """By how much a setting is better than 95 % as good as the reference, for each seed that both measured.

    The reference's own seeds scatter too, often with those of the setting: the difference knows both.
    """
    own, theirs = setting.by_seed, reference.by_seed
    seeds = sorted(own.keys() & theirs.keys())
    if higher:
        return [own[seed] - ENOUGH * theirs[seed] for seed in seeds]
    return [theirs[seed] / ENOUGH - own[seed] for seed in seeds]


def cheapest(points: Sequence[Point], limit: float, higher: bool) -> Point | None:
    """The point of least cost that reaches a limit; of several the better one."""
    sign = 1 if higher else -1
    enough = [point for point in points if sign * point.score >= sign * limit]
    return min(enough, key=lambda each: (each.cost, -sign * each.score, each.setting.number), default=None)
