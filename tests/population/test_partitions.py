"""Partitions: every record at exactly one client, nobody short of records, and the distribution of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import Examples
from fedsim.errors import BadInput
from fedsim.population import PARTITIONS, Dirichlet, Iid, Population
from fedsim.seeding import Stream, generator

# Those that deal records out one by one; the others have tests of their own.
DEALING = sorted(set(PARTITIONS) - {"natural", "pathological"})
LEAST = {"shards": 2}  # records of a client, where it is not one


def labels_of(records: int, classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, records)


def examples_of(labels: np.ndarray) -> Examples:
    return Examples(np.zeros((len(labels), 1), np.float32), labels)


def split(partition, labels, clients, seed=0) -> Population:
    return partition.split(examples_of(labels), clients, generator(seed, Stream.PARTITION))


def assert_every_record_once(population: Population, records: int, clients: int) -> None:
    assert len(population) == clients
    held = [record for client in range(clients) for record in population.records(client).tolist()]
    assert sorted(held) == list(range(records))
    assert population.sizes.tolist() == [len(population.records(client)) for client in range(clients)]
    assert population.indices.dtype == population.offsets.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(DEALING))
def test_every_record_is_at_exactly_one_client_and_no_client_is_empty(data, kind):
    clients = data.draw(st.integers(1, 40))
    records = data.draw(st.integers(LEAST.get(kind, 1) * clients, clients * 12))
    labels = labels_of(records, data.draw(st.integers(1, 12)), data.draw(st.integers(0, 99)))
    population = split(PARTITIONS[kind](), labels, clients, data.draw(st.integers(0, 2**40)))
    assert_every_record_once(population, records, clients)
    assert population.sizes.min() >= 1


@settings(max_examples=80, deadline=None)
@given(
    clients=st.integers(1, 25),
    min_size=st.integers(1, 12),
    spare=st.integers(0, 60),
    alpha=st.floats(1e-3, 1e4),
    seed=st.integers(0, 999),
)
def test_dirichlet_gives_every_client_min_size_even_where_that_leaves_no_choice(clients, min_size, spare, alpha, seed):
    records = clients * min_size + spare
    population = split(Dirichlet(alpha=alpha, min_size=min_size), labels_of(records, 7, seed), clients, seed)
    assert_every_record_once(population, records, clients)
    assert population.sizes.min() >= min_size
    if spare == 0:
        assert set(population.sizes) == {min_size}


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-10, 1e10, 1e300])
def test_dirichlet_works_for_an_extreme_alpha(alpha):
    assert_every_record_once(split(Dirichlet(alpha=alpha), labels_of(500), 20), 500, 20)


@pytest.mark.parametrize("kind", [*DEALING, "pathological"])
def test_the_split_depends_on_the_seed_alone(kind):
    labels = labels_of(300)
    first, again, other = (split(PARTITIONS[kind](), labels, 9, seed) for seed in (5, 5, 6))
    assert first.digest() == again.digest()
    np.testing.assert_array_equal(first.indices, again.indices)
    assert first.digest() != other.digest()


@pytest.mark.parametrize("kind", [*DEALING, "pathological"])
def test_labels_are_left_as_they_were(kind):
    labels = labels_of(300)
    before = labels.copy()
    split(PARTITIONS[kind](), labels, 9)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("kind", DEALING)
def test_more_clients_than_records_are_refused(kind):
    records = 8 * LEAST.get(kind, 1)
    assert_every_record_once(split(PARTITIONS[kind](), labels_of(records), 8), records, 8)
    with pytest.raises(BadInput, match=rf"population\.clients = 9 .* the data has {records}"):
        split(PARTITIONS[kind](), labels_of(records), 9)


def test_a_min_size_that_the_data_cannot_meet_is_refused():
    with pytest.raises(BadInput, match="needs 12 training records, but the data has 11"):
        split(Dirichlet(min_size=4), labels_of(11), 3)


@pytest.mark.parametrize("kind", [*DEALING, "pathological"])
def test_a_million_records_go_to_a_hundred_thousand_clients(kind):
    records, clients = 1_000_000, 100_000
    population = split(PARTITIONS[kind](), labels_of(records), clients)
    assert np.bincount(population.indices, minlength=records).tolist() == [1] * records
    assert population.sizes.min() >= 1
    assert population.sizes.sum() == records


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(0, 500))
def test_iid_sizes_differ_by_at_most_one(clients, more):
    sizes = split(Iid(), labels_of(clients + more), clients).sizes
    assert sizes.max() - sizes.min() <= 1


def test_iid_gives_every_record_to_every_client_equally_often():
    """Chi-squared over 40 clients x 30 records from 4,000 splits; false alarm once in a million, from its quantile."""
    from scipy.stats import chi2

    records, clients, splits = 30, 10, 4000
    counts = np.zeros((clients, records))
    rng = np.random.default_rng(1)
    for _ in range(splits):
        population = Iid().split(examples_of(np.zeros(records, np.int64)), clients, rng)
        counts[np.repeat(np.arange(clients), population.sizes), population.indices] += 1
    expected = splits / clients
    # Each split permutes the records, so the statistic of doubly centred counts has (10 - 1) * (30 - 1) degrees, times
    # the covariance factor of sampling without replacement, n / (n - 1).
    statistic = ((counts - expected) ** 2 / expected).sum() * (records - 1) / records
    assert statistic < chi2.ppf(1 - 1e-6, (clients - 1) * (records - 1))


# Dirichlet against the obvious loop


def naive_dirichlet(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> list[list[int]]:
    """Hsu et al. 2019 word by word: for every class draw proportions, then deal its records out client by client."""
    held: list[list[int]] = [[] for _ in range(clients)]
    for label in range(labels.max() + 1):
        members = [record for record, own in enumerate(labels) if own == label]
        weights = [rng.gamma(alpha) for _ in range(clients)]  # normalised gamma variables are Dirichlet
        rng.shuffle(members)
        given_out, share = 0, 0.0
        for client in range(clients):
            share += weights[client] / sum(weights)
            until = round(share * len(members))
            held[client] += members[given_out:until]
            given_out = until
    return held


def mean_top_share(held: list[list[int]], labels: np.ndarray) -> float:
    """Mean over clients with records of the share that their most frequent class has."""
    shares = [np.bincount(labels[own]).max() / len(own) for own in held if len(own)]
    return float(np.mean(shares))


def mean_square_size(held: list[list[int]]) -> float:
    return float(np.mean([len(own) ** 2 for own in held]))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_dirichlet_agrees_in_distribution_with_the_obvious_loop(alpha):
    """Welch's test of two statistics over 60 splits each; at |t| > 5 a false alarm comes once in 10^5 runs or less."""
    labels, clients, splits = labels_of(600), 12, 60
    ours, theirs = [], []
    for seed in range(splits):
        population = split(Dirichlet(alpha=alpha, min_size=1), labels, clients, seed)
        ours.append([population.records(client).tolist() for client in range(clients)])
        theirs.append(naive_dirichlet(labels, clients, alpha, np.random.default_rng([7, seed])))
    for statistic in (lambda held: mean_top_share(held, labels), mean_square_size):
        a, b = ([statistic(held) for held in sample] for sample in (ours, theirs))
        error = np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / splits)
        assert abs(np.mean(a) - np.mean(b)) / error < 5
        assert error < 0.1 * np.mean(b)  # the test can tell a difference of half the value


def test_dirichlet_gives_every_record_of_a_class_to_every_client_equally_often():
    """Of 400 splits each record is at client 0 in half; a rate 6 deviations off is a false alarm once in 10^7 runs."""
    splits = 400
    held = np.zeros(40)
    for seed in range(splits):
        held[split(Dirichlet(alpha=50.0), np.zeros(40, np.int64), 2, seed).records(0)] += 1
    assert (np.abs(held / splits - 0.5) < 6 * 0.5 / np.sqrt(splits)).all()


def test_no_client_number_is_favoured_by_dirichlet():
    """The mean size of each client over 400 splits is within 5.5 standard errors of fair: 1 false alarm in 10^6."""
    labels = labels_of(200, 5)
    sizes = np.array([split(Dirichlet(alpha=0.5), labels, 8, seed).sizes for seed in range(400)])
    error = sizes.std(0, ddof=1) / np.sqrt(len(sizes))
    assert (np.abs(sizes.mean(0) - 25) / error < 5.5).all()


def test_a_large_alpha_is_near_iid_and_a_small_one_skewed():
    labels = labels_of(2000)

    def top_share(alpha: float) -> float:
        population = split(Dirichlet(alpha=alpha), labels, 10)
        return mean_top_share([population.records(client).tolist() for client in range(10)], labels)

    assert top_share(1e6) < 0.13  # one class in ten holds 0.1, and rounding adds a little
    assert top_share(0.01) > 0.6
    sizes = split(Dirichlet(alpha=1e6), labels, 10).sizes
    assert sizes.max() - sizes.min() <= 20


# The population itself


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_digest_changes_when_one_record_moves(data):
    owners = np.array(data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=30)))
    record = data.draw(st.integers(0, len(owners) - 1))
    moved = owners.copy()
    moved[record] = (moved[record] + data.draw(st.integers(1, 5))) % 6
    before, after = Population.from_owners(owners, 6), Population.from_owners(moved, 6)
    assert before.digest() != after.digest()
    assert before.digest() == Population.from_owners(owners.copy(), 6).digest()
    assert before.digest() != Population.from_owners(owners, 7).digest()


@given(st.lists(st.integers(0, 4), max_size=30))
def test_from_owners_is_the_obvious_loop(owners):
    population = Population.from_owners(np.array(owners, np.int64), 5)
    for client in range(5):
        expected = [record for record, owner in enumerate(owners) if owner == client]
        assert population.records(client).tolist() == expected
