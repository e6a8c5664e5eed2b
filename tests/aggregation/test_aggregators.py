"""Aggregators of whole updates against Flower's, SciPy's and slow obvious loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.server.strategy.aggregate import aggregate_median, aggregate_trimmed_avg
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedsim.aggregation import AGGREGATORS
from fedsim.aggregation.bulyan import Bulyan, nearest_mean
from fedsim.aggregation.centred_clipping import CentredClipping
from fedsim.aggregation.fltrust import FLTrust
from fedsim.aggregation.geometric_median import GeometricMedian
from fedsim.aggregation.krum import Krum, MultiKrum, squared_distances
from fedsim.aggregation.median import Median
from fedsim.aggregation.norm_bound import NormBound
from fedsim.aggregation.trimmed_mean import TrimmedMean

SIZE = 37


def updates_of(clients: int, seed: int = 0, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(clients, size)).astype(np.float32)), torch.from_numpy(
        rng.integers(1, 50, clients).astype(np.float64)
    )


def close(found, expected) -> None:
    torch.testing.assert_close(found.double(), torch.as_tensor(expected).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clients", [1, 2, 3, 8, 11])
def test_the_median_is_flower_s(clients):
    updates, weights = updates_of(clients)
    (expected,) = aggregate_median([([row], 1) for row in updates.numpy()])
    close(Median().aggregate(updates, weights), expected)


@pytest.mark.parametrize(("clients", "share"), [(1, 0.4), (5, 0.2), (10, 0.25), (11, 0.0), (9, 0.49)])
def test_the_trimmed_mean_is_flower_s(clients, share):
    updates, weights = updates_of(clients)
    (expected,) = aggregate_trimmed_avg([([row], 1) for row in updates.numpy()], share)
    close(TrimmedMean(share=share).aggregate(updates, weights), expected)


def slow_scores(updates: np.ndarray, attackers: int) -> list[float]:
    scores = []
    for i, own in enumerate(updates):
        distances = sorted(float(((own - other) ** 2).sum()) for j, other in enumerate(updates) if j != i)
        scores.append(sum(distances[: max(1, len(updates) - attackers - 2)]))
    return scores


def first_of_the_least(scores: list[float]) -> int:
    return next(i for i, score in enumerate(scores) if score <= min(scores) * (1 + 1e-6))


@pytest.mark.parametrize(("clients", "attackers"), [(5, 1), (9, 2), (9, 3), (12, 0)])
def test_krum_and_multi_krum_are_the_slow_loop(clients, attackers):
    updates, weights = updates_of(clients, seed=clients)
    rows = updates.double().numpy()
    scores = slow_scores(rows, attackers)
    close(Krum(attackers=attackers).aggregate(updates, weights), rows[int(np.argmin(scores))])
    for kept in (None, 2):
        best = np.argsort(scores)[: kept or clients - attackers]
        expected = np.average(rows[best], axis=0, weights=weights.numpy()[best])
        close(MultiKrum(attackers=attackers, kept=kept).aggregate(updates, weights), expected)


def test_distances_survive_a_large_common_part():
    updates, _ = updates_of(6)
    torch.testing.assert_close(
        squared_distances(updates.double() + 1e6), squared_distances(updates.double()), rtol=1e-6, atol=1e-6
    )
    shifted = squared_distances(updates + 100)
    torch.testing.assert_close(shifted, squared_distances(updates), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("clients", "attackers"), [(7, 1), (11, 2), (13, 1), (5, 0)])
def test_bulyan_is_the_slow_loop(clients, attackers):
    updates, weights = updates_of(clients, seed=3 + clients)
    left = list(updates.double().numpy())
    picked = []
    for _ in range(clients - 2 * attackers):
        picked.append(left.pop(first_of_the_least(slow_scores(np.array(left), attackers))))
    median = np.median(picked, axis=0)
    (expected,) = aggregate_n_closest_weights([median], [[row] for row in picked], clients - 4 * attackers)
    close(Bulyan(attackers=attackers).aggregate(updates, weights), expected)


@pytest.mark.parametrize("size", [1e9, -1e20, 3e38])
def test_two_liars_that_agree_do_no_harm_to_bulyan(size):
    """Of the last few updates Krum likes two that are the same; the values nearest to the median leave them out."""
    updates, weights = updates_of(11)
    updates[3] = updates[8] = size
    honest = updates[[client for client in range(11) if client not in (3, 8)]]
    found = Bulyan(attackers=2).aggregate(updates, weights)
    # Each value is a mean of three honest ones.
    assert (found <= honest.sort(0).values[-3:].mean(0) + 1e-6).all()
    assert (found >= honest.sort(0).values[:3].mean(0) - 1e-6).all()
    rows, kept = updates[:7].t().sort(1).values, 3
    (expected,) = aggregate_n_closest_weights([np.median(rows, axis=1)], [[row] for row in rows.t().numpy()], kept)
    close(nearest_mean(rows, kept), expected)


def test_a_share_of_the_clients_that_is_a_whole_number_is_cut():
    """In floats 0.29 of 100 is a little less than 29."""
    updates, weights = updates_of(100)
    middle = updates.sort(0).values[29:71]
    close(TrimmedMean(share=0.29).aggregate(updates, weights), middle.double().mean(0))


def test_the_geometric_median_is_the_minimum():
    updates, weights = updates_of(9, size=4)
    rows, shares = updates.double().numpy(), weights.numpy()

    def cost(point) -> float:
        return float((shares * np.linalg.norm(rows - point, axis=1)).sum())

    best = minimize(cost, rows.mean(0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20000})
    found = GeometricMedian(iterations=200).aggregate(updates, weights)
    assert cost(found.double().numpy()) == pytest.approx(best.fun, rel=1e-6)


def test_norm_bound_scales_what_is_too_long():
    updates, weights = updates_of(5)
    rows = updates.double().numpy()
    clipped = rows * np.minimum(1, 0.5 / np.linalg.norm(rows, axis=1))[:, None]
    expected = np.average(clipped, axis=0, weights=weights.numpy())
    close(NormBound(bound=0.5).aggregate(updates, weights), expected)


@pytest.mark.parametrize(("radius", "iterations"), [(0.5, 1), (5.0, 3), (100.0, 1)])
def test_centred_clipping_is_the_written_out_loop_from_round_to_round(radius, iterations):
    aggregator = CentredClipping(radius=radius, iterations=iterations)
    found, centre = None, np.zeros(SIZE)
    for round_ in range(3):
        updates, weights = updates_of(6, seed=round_)
        found = aggregator.aggregate(updates, weights, found)
        for _ in range(iterations):
            ways = updates.double().numpy() - centre
            ways *= np.minimum(1, radius / np.linalg.norm(ways, axis=1))[:, None]
            centre = centre + np.average(ways, axis=0, weights=weights.numpy())
        close(found, centre)


def test_fltrust_is_the_written_out_loop():
    updates, weights = updates_of(9)
    root = updates[0] + 0.5 * updates[3]
    rows, own = updates.double().numpy(), root.double().numpy()
    total, trusts = np.zeros(SIZE), 0.0
    for row in rows:
        cosine = row @ own / np.linalg.norm(row) / np.linalg.norm(own)
        trust = max(0.0, cosine)
        total, trusts = total + trust * row * np.linalg.norm(own) / np.linalg.norm(row), trusts + trust
    close(FLTrust().aggregate(updates, weights, root), total / trusts)


def test_fltrust_follows_nobody_whom_it_does_not_trust():
    updates, weights = updates_of(4)
    against = -updates.mean(0).repeat(4, 1)
    for rows, root in ((against, updates.mean(0)), (0 * updates, updates[0]), (updates, 0 * updates[0])):
        close(FLTrust().aggregate(rows, weights, root), np.zeros(SIZE))
    with pytest.raises(ValueError, match="root"):
        FLTrust().aggregate(updates, weights)


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(sorted(AGGREGATORS)), clients=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_the_order_of_clients_does_not_matter_and_equal_updates_stay(kind, clients, seed):
    aggregator = AGGREGATORS[kind]()
    clients = max(clients, aggregator.least)
    updates, weights = updates_of(clients, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(clients))
    if kind != "bulyan":  # it picks from the last few by scores that tie
        root = updates.mean(0)
        close(aggregator.aggregate(updates[order], weights[order], root), aggregator.aggregate(updates, weights, root))
    same = (updates[:1] / updates[:1].norm() / 2).repeat(clients, 1)
    close(aggregator.aggregate(same, weights, same[0]), same[0])


@pytest.mark.parametrize("size", [1e6, -1e6, 1e20, -3e38])
@pytest.mark.parametrize("kind", sorted(set(AGGREGATORS) - {"mean"}))
def test_one_liar_among_eleven_does_no_harm(kind, size):
    """Ten honest clients agree up to noise; the eleventh sends something huge. Only the mean follows it."""
    updates, _ = updates_of(11, seed=1)
    updates = 1 + 0.01 * updates
    updates[4] = size
    weights = torch.ones(11, dtype=torch.float64)
    honest = updates[torch.arange(11) != 4].mean(0)
    options = {
        "norm_bound": {"bound": 1.1 * float(honest.norm())},
        "centred_clipping": {"radius": 0.5 * float(honest.norm()), "iterations": 20},
    }
    root = 1 + 0.01 * updates_of(1, seed=2)[0][0]
    found = AGGREGATORS[kind](**options.get(kind, {})).aggregate(updates, weights, None if kind != "fltrust" else root)
    # A bound on lengths lets a liar of eleven pull by a tenth of it all the same.
    harm = 0.25 if kind == "norm_bound" else 0.1
    assert float((found - honest).norm()) < harm * float(honest.norm())
    assert not float((AGGREGATORS["mean"]().aggregate(updates, weights) - honest).norm()) < 1e3
