"""Synthetic data follows the law that it says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from fedsim.data import Dataset
from fedsim.data.synthetic import PROBLEMS, Clusters, Leaf, Line, Synthetic


def features_of(data: Dataset, owner: int) -> np.ndarray:
    """All features of one owner ``[n, d]``."""
    parts = [split.features[split.owners == owner] for split in (data.train, data.test)]
    return np.concatenate(parts).astype(float)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_every_problem_depends_on_the_seed_alone_and_holds_the_fraction_out(kind):
    source = Synthetic(problem=PROBLEMS[kind]())
    first, again, other = source.load(3), source.load(3), source.load(4)
    np.testing.assert_array_equal(first.train.features, again.train.features)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    assert not np.array_equal(first.test.features[:50], other.test.features[:50])
    share = len(first.test) / (len(first.train) + len(first.test))
    assert share == pytest.approx(0.2, abs=0.01)
    assert first.train.features.dtype == np.float32


def test_the_line_is_three_x_plus_two():
    exact = Synthetic(problem=Line(examples=50, noise=0)).load(0)
    np.testing.assert_allclose(exact.train.labels, 3 * exact.train.features + 2, rtol=1e-5, atol=1e-5)
    noisy = Synthetic(problem=Line(examples=20_000, noise=0.5)).load(0)
    fit = LinearRegression().fit(noisy.train.features, noisy.train.labels)
    # Five standard errors of 0.5 / sqrt(16,000); about one false alarm in a million seeds, and the seed is fixed.
    assert fit.coef_[0, 0] == pytest.approx(3, abs=0.02)
    assert fit.intercept_[0] == pytest.approx(2, abs=0.02)
    residuals = noisy.train.labels - fit.predict(noisy.train.features)
    assert residuals.std() == pytest.approx(0.5, rel=0.03)
    assert noisy.train.features.std() == pytest.approx(1, rel=0.03)
    assert noisy.kind == "numbers"


def test_clusters_are_equally_large_of_unit_spread_and_as_far_out_as_said():
    data = Synthetic(problem=Clusters(examples=6000, classes=3, features=4, separation=5.0)).load(1)
    labels = np.concatenate([data.train.labels, data.test.labels])
    features = np.concatenate([data.train.features, data.test.features])
    assert np.bincount(labels).tolist() == [2000, 2000, 2000]
    for label in range(3):
        own = features[labels == label]
        assert np.linalg.norm(own.mean(axis=0)) == pytest.approx(5, abs=0.15)
        np.testing.assert_allclose(own.std(axis=0), 1, atol=0.08)


def test_no_separation_leaves_nothing_to_learn():
    data = Synthetic(problem=Clusters(examples=4000, classes=2, separation=0)).load(1)
    fit = LogisticRegression().fit(data.train.features, data.train.labels)
    assert fit.score(data.test.features, data.test.labels) == pytest.approx(0.5, abs=0.06)


def test_synthetic_alpha_beta_has_its_own_clients_with_the_published_sizes():
    data = Synthetic(problem=Leaf(clients=400, features=2)).load(0)
    sizes = np.bincount(data.train.owners) + np.bincount(data.test.owners)
    assert len(data.owners) == 400
    assert sizes.min() >= 50
    logs = np.log(sizes - 50 + 0.5)  # sizes are rounded down
    assert logs.mean() == pytest.approx(4, abs=0.4)
    assert logs.std() == pytest.approx(2, abs=0.3)
    assert set(np.unique(data.train.labels)) <= set(range(10))


def test_features_spread_as_published_and_beta_sets_clients_apart():
    near = Synthetic(problem=Leaf(beta=0, clients=60, features=5)).load(2)
    far = Synthetic(problem=Leaf(beta=10, clients=60, features=5)).load(2)
    largest = max(range(60), key=lambda owner: len(features_of(near, owner)))
    own = features_of(near, largest)
    np.testing.assert_allclose(own.var(axis=0), np.arange(1, 6) ** -1.2, rtol=0.2)
    for data, spread in ((near, 1.0), (far, 101**0.5)):
        centres = np.array([features_of(data, owner).mean(axis=0) for owner in range(60)])
        # A client's centre is N(B_k, 1) in every feature with B_k ~ N(0, beta): spread sqrt(1 + beta^2).
        assert (centres**2).mean() ** 0.5 == pytest.approx(spread, rel=0.35)


def test_one_linear_model_fits_all_clients_only_if_they_are_iid():
    scores = {}
    for iid in (True, False):
        data = Synthetic(problem=Leaf(iid=iid, clients=20, features=10, classes=5)).load(1)
        fit = LogisticRegression(C=100, max_iter=2000).fit(data.train.features, data.train.labels)
        scores[iid] = fit.score(data.test.features, data.test.labels)
    assert scores[True] > 0.95
    assert scores[False] < scores[True] - 0.1
