"""Every partition of the table, with any settings: each record at exactly one client (or a stated part), or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data import Examples
from fedsim.population import PARTITIONS, Population
from fedsim.population.held_out import hold_back, hold_back_fold, set_apart
from fedsim.seeding import Stream, generator
from tests.fuzzing.target import refusal
from tests.properties.profile import tried

EXTREME = st.floats(5e-324, 1e308)
SMALL = st.integers(1, 6)
# Any settings of an entry; one that is not here is tried with its defaults.
SETTINGS = {
    "dirichlet": st.fixed_dictionaries({"alpha": EXTREME, "min_size": SMALL}),
    "shards": st.fixed_dictionaries({"shards_per_client": SMALL}),
    "pathological": st.fixed_dictionaries({"classes_per_client": SMALL}),
    "quantity_skew": st.fixed_dictionaries(
        {"law": st.sampled_from(["log_normal", "power_law"]), "sigma": EXTREME, "exponent": EXTREME, "min_size": SMALL}
    ),
    "natural": st.fixed_dictionaries({"min_size": SMALL}),
}


@st.composite
def examples(draw: st.DrawFn) -> Examples:
    """Up to 80 records with classes or numbers as labels, and any owners."""
    records, seed = draw(st.integers(1, 80)), draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, draw(st.integers(1, 12)), records)
    labels = classes if draw(st.booleans()) else rng.standard_normal((records, 2))
    owners = rng.integers(0, draw(st.integers(1, 12)), records)
    return Examples(rng.random((records, 2), np.float32), labels, owners)


def held_by(population: Population) -> list[int]:
    return sorted(record for client in range(len(population)) for record in population.records(client).tolist())


@pytest.mark.parametrize("kind", sorted(PARTITIONS))
@tried(40)
@given(data=st.data())
def test_every_partition_is_a_partition_or_is_refused(kind, data):
    partition = PARTITIONS[kind](**data.draw(SETTINGS.get(kind, st.just({}))))
    whole, clients, seed = data.draw(examples()), data.draw(st.integers(1, 30)), data.draw(st.integers(0, 2**62))
    made: list[Population] = []
    reason = refusal(lambda: made.append(partition.split(whole, clients, generator(seed, Stream.PARTITION))))
    if reason is not None:
        assert "population." in reason
        return
    (population,) = made
    assert len(population) == clients >= 1
    expected = list(range(len(whole)))
    if kind == "natural":  # owners with too few records, and those that were not drawn, are left out whole
        taken = {int(owner) for owner in whole.owners[population.indices]}
        expected = np.flatnonzero(np.isin(whole.owners, list(taken))).tolist()
        assert len(taken) == clients
    assert held_by(population) == expected
    assert population.sizes.tolist() == [len(population.records(client)) for client in range(clients)]
    assert population.sizes.min() >= getattr(partition, "min_size", 1)


@tried(60)
@given(examples(), st.integers(1, 12), st.floats(0.01, 0.99), st.integers(2, 6), st.integers(0, 99))
def test_what_is_held_back_and_what_is_trained_on_are_the_whole(whole, clients, fraction, folds, seed):
    rng = np.random.default_rng(seed)
    population = Population.from_owners(rng.integers(0, clients, len(whole)), clients)
    keys = rng.random(len(whole))
    parts = [
        hold_back(population, fraction, keys),
        *(hold_back_fold(population, 1 + n, folds, keys) for n in range(folds)),
    ]
    for train, test in parts:
        assert sorted(held_by(train) + held_by(test)) == held_by(population)
        for client in range(clients):
            assert set(train.records(client)) | set(test.records(client)) == set(population.records(client))
            assert len(train.records(client)) >= min(1, len(population.records(client)))
    tested = [held_by(test) for _, test in parts[1:]]
    alone = [int(population.records(client)[0]) for client in range(clients) if population.sizes[client] == 1]
    assert sorted([record for part in tested for record in part] + alone) == held_by(
        population
    )  # every record in exactly one fold
    if clients > 1:
        seen, unseen = (
            set_apart(population, fraction, rng) if round(fraction * clients) < clients else (population, None)
        )
        assert unseen is None or sorted(held_by(seen) + held_by(unseen)) == held_by(population)
