"""The Pareto set, the knee and the cheapest setting against slow obvious loops and pictures drawn by hand."""

import math

import numpy as np
import pytest

from fedsim.directions import more_is_better
from fedsim.report.frontier.pareto import Point, cheapest, knee, pareto, threshold
from fedsim.report.frontier.settings import Setting
from fedsim.report.keys import short_names


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(Setting(number, {}, (), "accuracy"), *pair) for number, pair in enumerate(pairs)]


def undominated(found: list[Point], higher: bool) -> set[int]:
    """By comparing every point with every other."""
    sign = 1 if higher else -1
    kept = set()
    for one in found:
        as_good = [each for each in found if each.cost <= one.cost and sign * each.score >= sign * one.score]
        better = [each for each in as_good if (each.cost, each.score) != (one.cost, one.score)]
        earlier = [each for each in as_good if each not in better and each.setting.number < one.setting.number]
        if not better and not earlier:
            kept.add(one.setting.number)
    return kept


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_pareto_set_is_what_nothing_dominates(seed: int, higher: bool) -> None:
    random = np.random.default_rng(seed)
    found = points(
        *((float(random.integers(1, 12)), float(random.integers(0, 12))) for _ in range(80)), (math.inf, 11.5)
    )
    assert {point.setting.number for point in pareto(found, higher)} == undominated(found, higher)


def test_the_knee_is_where_a_drawn_curve_bends() -> None:
    front = points((0.5, 0.2), (1, 0.3), (2, 0.9), (4, 0.92), (8, 0.95), (math.inf, 0.99))
    found = knee(front)
    assert found is not None
    assert found.cost == 2
    falling = points((0.5, 0.8), (1, 0.7), (2, 0.1), (4, 0.08), (8, 0.05))
    lowest = knee(falling)
    assert lowest is not None
    assert lowest.cost == 2


@pytest.mark.parametrize(
    "pairs",
    [[(1, 0.5), (2, 0.9)], [(1, 0.1), (2, 0.2), (4, 0.3), (8, 0.4)], [(0, 0.1), (1, 0.2), (2, 0.3), (math.inf, 1)]],
)
def test_too_few_points_or_a_straight_line_have_no_knee(pairs: list[tuple[float, float]]) -> None:
    assert knee(points(*pairs)) is None


def test_the_cheapest_that_is_good_enough() -> None:
    found = points((4, 0.93), (2, 0.905), (2, 0.91), (1, 0.89))
    chosen = cheapest(found, threshold(0.95, True) or 0, True)
    assert chosen is not None
    assert (chosen.cost, chosen.score) == (2, 0.91)
    assert cheapest(found, 0.94, True) is None
    assert threshold(0.19, False) == pytest.approx(0.2)
    assert threshold(-0.3, True) is None


def test_which_metrics_are_better_the_larger() -> None:
    better = ["accuracy", "accuracy_worst", "balanced_accuracy", "auroc_unseen", "r2", "accuracy_personal_p10"]
    assert all(map(more_is_better, [*better, "balanced_accuracy_unseen", "top_5_accuracy_mean"]))
    assert not any(map(more_is_better, ["loss", "mse", "perplexity", "attack_success", "loss_p90", "epsilon", "bytes"]))


def test_keys_are_shortened_as_far_as_they_differ() -> None:
    keys = ["privacy.example.clip_norm", "privacy.client.clip_norm", "rounds", "algorithm.local.rounds"]
    assert short_names(keys) == {
        "privacy.example.clip_norm": "example.clip_norm",
        "privacy.client.clip_norm": "client.clip_norm",
        "rounds": "rounds",
        "algorithm.local.rounds": "local.rounds",
    }
