"""Shards, pathological, quantity skew, feature skew and natural owners: each does what its paper says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from fedsim.data import Digits, Examples
from fedsim.errors import BadInput
from fedsim.population import FeatureSkew, Natural, Pathological, Population, QuantitySkew, Shards
from fedsim.population.feature_skew import rotated
from fedsim.seeding import Stream, generator
from tests.population.test_partitions import assert_every_record_once, examples_of, labels_of, split


def classes_of(population: Population, labels: np.ndarray) -> list[list[int]]:
    return [np.unique(labels[population.records(client)]).tolist() for client in range(len(population))]


# Shards


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 80), st.integers(0, 99))
def test_every_client_has_so_many_runs_of_the_sorted_records(clients, each, spare, seed):
    """The oracle cuts the sorted labels with array_split and looks which multisets of shards a client may hold."""
    records = clients * each + spare
    labels = labels_of(records, 5, seed)
    population = split(Shards(shards_per_client=each), labels, clients, seed)
    assert_every_record_once(population, records, clients)
    sizes = [len(part) for part in np.array_split(np.sort(labels), clients * each)]
    assert population.sizes.max() <= each * max(sizes)
    assert population.sizes.min() >= each * min(sizes)
    changes = len(np.unique(labels)) - 1  # a shard that lies across a change of the label holds one class more
    held = sum(map(len, classes_of(population, labels)))
    assert held <= clients * each + changes


def test_shards_hold_few_classes_and_come_in_random_order():
    labels = np.repeat(np.arange(10), 60)
    counts = np.zeros(10)
    for seed in range(300):
        held = classes_of(split(Shards(), labels, 10, seed), labels)
        assert max(map(len, held)) <= 2
        counts[held[0]] += 1
    # Client 0 draws 2 of 20 shards, two of each class: it holds class c with p = 1 - (18 * 17) / (20 * 19) = 0.195.
    # 10 binomial counts of 300 draws, 5.5 deviations: one false alarm in 2 million runs.
    assert (np.abs(counts - 300 * 0.1947) < 5.5 * np.sqrt(300 * 0.1947 * 0.8053)).all()


def test_numbers_are_cut_into_tenths():
    values = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    examples = Examples(np.zeros((400, 1), np.float32), values)
    population = Shards().split(examples, 10, generator(0, Stream.PARTITION))
    tenths = [set((np.argsort(np.argsort(values[:, 0]))[population.records(c)] // 40).tolist()) for c in range(10)]
    assert max(map(len, tenths)) <= 2


# Pathological


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 30), st.integers(0, 99))
def test_every_client_holds_exactly_k_classes_in_even_shares(classes, each, clients, seed):
    labels = np.repeat(np.arange(classes), 40)
    partition = Pathological(classes_per_client=each)
    if each > classes or clients * each < classes:
        with pytest.raises(BadInput, match="classes_per_client"):
            split(partition, labels, clients, seed)
        return
    population = split(partition, labels, clients, seed)
    assert_every_record_once(population, len(labels), clients)
    held = classes_of(population, labels)
    assert {len(own) for own in held} == {each}
    for label in range(classes):
        shares = [int((labels[population.records(client)] == label).sum()) for client in range(clients)]
        shares = [share for share in shares if share]
        assert max(shares) - min(shares) <= 1


def test_a_class_with_too_few_records_for_its_clients_is_refused():
    labels = np.concatenate([np.zeros(100, np.int64), np.ones(3, np.int64)])
    with pytest.raises(BadInput, match="20 clients drew class 1, which has only 3 training records"):
        split(Pathological(), labels, 20)


# Quantity skew


@settings(max_examples=60, deadline=None)
@given(
    clients=st.integers(1, 30),
    min_size=st.integers(1, 5),
    spare=st.integers(0, 500),
    law=st.sampled_from(["log_normal", "power_law"]),
    strength=st.floats(1e-3, 30),
)
def test_sizes_are_at_least_the_smallest_and_add_up(clients, min_size, spare, law, strength):
    partition = QuantitySkew(law=law, sigma=strength, exponent=strength, min_size=min_size)
    records = clients * min_size + spare
    population = split(partition, labels_of(records), clients, 3)
    assert_every_record_once(population, records, clients)
    assert population.sizes.min() >= min_size


def test_log_normal_sizes_have_the_sigma_that_was_asked_for():
    """Kolmogorov-Smirnov against the normal law with 20,000 clients; a false alarm comes once in a million runs."""
    sizes = split(QuantitySkew(sigma=0.8), labels_of(4_000_000, 2), 20_000).sizes
    logs = np.log(sizes - 1.0 + 0.5)
    assert stats.kstest((logs - logs.mean()) / 0.8, "norm").pvalue > 1e-6
    assert logs.std() == pytest.approx(0.8, rel=0.05)


def test_power_law_sizes_follow_the_rank():
    records, clients = 100_000, 50
    sizes = np.sort(split(QuantitySkew(law="power_law", exponent=1.2), labels_of(records), clients).sizes)[::-1]
    weights = np.arange(1, clients + 1) ** -1.2
    expected = 1 + (records - clients) * weights / weights.sum()
    assert (np.abs(sizes - expected) <= 1).all()


def test_labels_do_not_depend_on_the_size():
    """Chi-squared of label against client, 9 x 19 degrees; a false alarm comes once in a million runs."""
    labels = labels_of(50_000)
    population = split(QuantitySkew(min_size=100), labels, 20)
    counts = np.array([np.bincount(labels[population.records(client)], minlength=10) for client in range(20)])
    assert stats.chi2_contingency(counts).pvalue > 1e-6


# Feature skew


def skewed(partition: FeatureSkew, examples: Examples, clients: int) -> tuple[Population, np.ndarray]:
    population = partition.split(examples, clients, generator(0, Stream.PARTITION))
    return population, partition.skewed(examples, population, generator(0, Stream.FEATURES)).features


def test_noise_has_each_clients_own_size_and_leaves_the_original_alone():
    """Of 40,000 values the deviation is within 2 % (5.6 standard errors) of sqrt(noise * i / n)."""
    examples = Examples(np.zeros((4000, 100), np.float32), np.zeros(4000, np.int64))
    population, features = skewed(FeatureSkew(noise=0.5), examples, 10)
    found = [features[population.records(client)].std() for client in range(10)]
    np.testing.assert_allclose(found, np.sqrt(0.5 * np.arange(1, 11) / 10), rtol=0.02)
    assert not examples.features.any()


def test_without_a_size_the_noise_is_that_of_the_paper():
    assert FeatureSkew().noise == 0.1
    assert FeatureSkew(rotation_degrees=10.0).noise is None


def test_right_angles_are_exact_turns():
    images = np.random.default_rng(0).random((4, 2, 7, 7)).astype(np.float32)
    turned = rotated(images, np.array([0.0, 90.0, 180.0, -90.0]))
    expected = [np.rot90(image, turns, axes=(1, 2)) for image, turns in zip(images, (0, 1, 2, -1), strict=True)]
    np.testing.assert_allclose(turned, np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("angle", [13.0, -40.0, 77.0])
@pytest.mark.parametrize("shape", [(9, 9), (8, 12)])
def test_other_angles_agree_with_scipy(angle, shape):
    image = np.random.default_rng(1).random(shape).astype(np.float32)
    expected = ndimage.rotate(image, angle, reshape=False, order=1, mode="nearest")
    np.testing.assert_allclose(rotated(image[None, None], np.array([angle]))[0, 0], expected, atol=1e-4)


def test_a_clients_images_are_all_turned_by_the_same_angle():
    data = Digits().load(0).train
    same = Examples(np.repeat(data.features[:1], 300, axis=0), data.labels[:300])
    population, features = skewed(FeatureSkew(rotation_degrees=60.0), same, 6)
    firsts = [features[population.records(client)] for client in range(6)]
    assert all((own == own[0]).all() for own in firsts)
    assert len({own[0].tobytes() for own in firsts}) == 6


def test_features_that_cannot_be_skewed_are_refused():
    table = Examples(np.zeros((20, 3), np.float32), np.zeros(20, np.int64))
    with pytest.raises(BadInput, match=r"shape \(3,\) are no images"):
        skewed(FeatureSkew(rotation_degrees=5.0), table, 2)
    texts = Examples(np.zeros((20, 3), np.int64), np.zeros(20, np.int64))
    with pytest.raises(BadInput, match="texts have no noise"):
        skewed(FeatureSkew(), texts, 2)


# Natural owners


def owned(owners: list[int]) -> Examples:
    return Examples(np.zeros((len(owners), 1), np.float32), np.zeros(len(owners), np.int64), np.array(owners))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 9))
def test_clients_are_the_owners_with_enough_records(owners, min_size, seed):
    partition, examples = Natural(min_size=min_size), owned(owners)
    able = [owner for owner in range(10) if owners.count(owner) >= min_size]
    assert partition.count(examples) == len(able)
    if not able:
        return
    every = partition.split(examples, len(able), generator(seed, Stream.PARTITION))
    expected = [[record for record, own in enumerate(owners) if own == owner] for owner in able]
    assert [every.records(client).tolist() for client in range(len(able))] == expected
    some = partition.split(examples, (len(able) + 1) // 2, generator(seed, Stream.PARTITION))
    chosen = [some.records(client).tolist() for client in range(len(some))]
    assert [own for own in expected if own in chosen] == chosen


def test_owners_are_drawn_by_the_seed():
    examples = owned(list(range(100)))
    first, again, other = (Natural().split(examples, 10, generator(seed, Stream.PARTITION)) for seed in (1, 1, 2))
    assert first.digest() == again.digest() != other.digest()


def test_more_clients_than_owners_and_data_without_owners_are_refused():
    with pytest.raises(BadInput, match=r"population.clients = 4: the data has 3 owners with at least 2"):
        Natural(min_size=2).split(owned([0, 0, 1, 1, 2, 2, 3]), 4, generator(0, Stream.PARTITION))
    with pytest.raises(BadInput, match="does not say who owns"):
        Natural().count(examples_of(labels_of(5)))


@pytest.mark.parametrize("partition", [Natural(), Shards(), Pathological(), QuantitySkew()], ids=lambda p: p.kind)
def test_a_million_clients(partition):
    records, clients = 4_000_000, 1_000_000
    owners = np.random.default_rng(0).permutation(records) % clients
    examples = Examples(np.zeros((records, 1), np.float32), labels_of(records), owners)
    population = partition.split(examples, clients, generator(0, Stream.PARTITION))
    assert len(population) == clients
    assert population.sizes.min() >= 1
    assert (np.bincount(population.indices, minlength=records) == 1).all()
