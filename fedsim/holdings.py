"""Who holds what: the data, the clients that train on it, and what is held out of training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.aggregation.fltrust import FLTrust
from fedsim.attacking import attacked
from fedsim.data import Dataset, Examples
from fedsim.errors import BadInput
from fedsim.population import FeatureSkew, Natural, Population
from fedsim.population.held_out import PerClient, hold_back, hold_back_fold, set_apart
from fedsim.population.population import Indices
from fedsim.scenario import Scenario
from fedsim.seeding import Stream, generator


class Remote(Protocol):
    """Clients whose records are elsewhere: where ``tests``, metrics are asked of them; else of the server's records."""

    tests: bool

    @property
    def names(self) -> list[str]:
        """What the clients are called, in the order of their ids."""

    @property
    def records(self) -> int:
        """How many records those that send metrics hold back."""

    def evaluate(self, federation: Any, params: Any) -> dict[str, float]:
        """The metrics of a model ``[params]``; NaN where nobody answers."""

    def by_client(self, federation: Any) -> dict[str, Any]:
        """The compared metric of each client."""

    def released(self, federation: Any) -> list[str]:
        """What left the clients outside any guarantee, a sentence each."""

    def describe(self) -> list[dict[str, Any]]:
        """Every client, for the summary."""


@dataclass(frozen=True)
class Holdings:
    """A scenario's records: ``data.train`` holds all that clients have, ``data.test`` those that metrics are of.

    Where clients hold back records to be tested on, those that the source holds out belong to the clients too.
    ``population`` is what the clients train on, ``whole`` all that these clients hold. ``held_back`` says which of it
    each of them is tested on, in the order of ``data.test`` (None where the source holds out the test records);
    ``unseen`` are clients that never train, and ``root`` is the server with public records of its own, which are the
    last of ``data.train``. ``attacks`` says which clients are hostile ``[clients]`` (None without attack); what they
    train on is in ``data.train`` as they poisoned it. ``notes`` say what was counted or left out. With ``remote``
    clients, the training records here only stand for theirs: one each, all zeros.
    """

    data: Dataset
    population: Population
    whole: Population
    held_back: Population | None = None
    unseen: Population | None = None
    root: Population | None = None
    notes: tuple[str, ...] = ()
    attacks: NDArray[np.bool_] | None = None
    remote: Remote | None = None

    @property
    def unseen_data(self) -> Dataset | None:
        """The data with all records of the unseen clients as its test records."""
        if self.unseen is None:
            return None
        return replace(self.data, test=taken(self.data.train, self.unseen.indices))


def client_names(scenario: Scenario, holdings: Holdings, clients: int) -> list[str] | list[int]:
    """What the first clients that train are called: natural ones by their owner, others by their number."""
    if holdings.remote is not None:
        return holdings.remote.names[:clients]
    train, whole = holdings.data.train, holdings.whole
    if train.owners is None or not isinstance(scenario.population.partition, Natural):
        return list(range(clients))
    first = train.owners[whole.indices[whole.offsets[:clients]]]
    return [holdings.data.owners[owner] for owner in first]


def load_holdings(scenario: Scenario) -> Holdings:
    """Load the data, deal it out, hold out what the scenario says and let attackers poison; raises ``BadInput``.

    Of a scenario with folds that does not say which, this is the first.
    """
    return attacked(scenario, _dealt_out(scenario))


def _dealt_out(scenario: Scenario) -> Holdings:
    data = scenario.data.load(scenario.seed)
    if scenario.evaluation.tests_clients:
        data = _with_test_records(scenario, data)
    whole = _split(scenario, data)
    notes = (*data.notes, *_left_out(data.train, whole))
    partition = scenario.population.partition
    if isinstance(partition, FeatureSkew):
        rng = generator(scenario.seed, Stream.FEATURES)
        data = replace(data, train=partition.skewed(data.train, whole, rng))
    unseen = None
    if scenario.evaluation.unseen_clients:
        rng = generator(scenario.seed, Stream.UNSEEN)
        whole, unseen = set_apart(whole, scenario.evaluation.unseen_clients, rng)
    parts = _held_back(scenario, whole, len(data.train))
    if parts is None:
        data, root, note = _with_root(scenario, data, whole)
        return Holdings(data, whole, whole, None, unseen, root, notes + note)
    population, held_back = parts
    data = replace(data, test=taken(data.train, held_back.indices))
    untested = int((held_back.sizes == 0).sum())
    if untested:
        notes += (f"{untested} of {len(whole)} clients have too few records to hold one back, and are not tested.",)
    return Holdings(data, population, whole, held_back, unseen, None, notes)


def _with_test_records(scenario: Scenario, data: Dataset) -> Dataset:
    """The data with the source's test records after its training records, as the clients test on records of their own.

    Records without an owner among others with one could belong to no client under ``natural``, and stay out.
    """
    train, test = data.train, data.test
    count, key = len(test), "folds" if scenario.evaluation.folds is not None else "test"
    owned = train.owners is not None and test.owners is not None
    if isinstance(scenario.population.partition, Natural) and train.owners is not None and not owned:
        note = f"The source's {count} test records name no owner, so no client has them and none is used."
        return replace(data, notes=(*data.notes, note))
    note = (
        f"The source's {count} test records belong to the clients too, as evaluation.{key} has the clients hold back "
        "records of their own."
    )
    return replace(data, train=_joined(train, test), notes=(*data.notes, note))


def _with_root(
    scenario: Scenario, data: Dataset, whole: Population
) -> tuple[Dataset, Population | None, tuple[str, ...]]:
    """The data with the server's root records, taken from the test records, after the training records."""
    aggregation, train, test = scenario.algorithm.aggregation, data.train, data.test
    if not isinstance(aggregation, FLTrust):
        return data, None, ()
    count, where = aggregation.root_records, "algorithm.aggregation.root_records"
    if count >= len(test):
        raise BadInput(f"{where} = {count}: the source has {len(test)} test records, and one must be left to test on.")
    if of_training_owners(scenario, Holdings(data, whole, whole)):
        raise BadInput(
            f"{where}: root records are public, but test records of this source belong to the owners that are clients. "
            "Use another partition than natural, or another aggregation."
        )
    order = generator(scenario.seed, Stream.ROOT).permutation(len(test))
    chosen, rest = np.sort(order[:count]), np.sort(order[count:])
    nobody = np.full(len(test), -1, np.int64) if train.owners is not None else None
    data = replace(data, train=_joined(train, taken(replace(test, owners=nobody), chosen)), test=taken(test, rest))
    root = Population(np.arange(len(train), len(train) + count), np.array([0, count]))
    note = f"{count} of the source's test records are public root records; the other {len(rest)} are left to test on."
    return data, root, (note,)


def _joined(first: Examples, second: Examples) -> Examples:
    """The examples of both, in this order; owners only where both have them."""
    both = first.owners, second.owners
    owners = None if both[0] is None or both[1] is None else np.concatenate([both[0], both[1]])
    features = np.concatenate([first.features, second.features])
    return Examples(features, np.concatenate([first.labels, second.labels]), owners)


def _split(scenario: Scenario, data: Dataset) -> Population:
    settings, rng = scenario.population, generator(scenario.seed, Stream.PARTITION)
    clients = settings.clients
    if isinstance(settings.partition, Natural) and data.train.owners is None and hasattr(scenario.data, "client"):
        raise BadInput(
            'population.partition.kind = "natural": needs to know who owns each record. Set data.client to the column '
            "that says so, or use another partition."
        )
    if clients is None:
        assert isinstance(settings.partition, Natural)  # the others have a default
        clients = settings.partition.count(data.train)
    return settings.partition.split(data.train, clients, rng)


def _left_out(train: Examples, whole: Population) -> tuple[str, ...]:
    records = len(train) - len(whole.indices)
    if not records or train.owners is None:
        return ()
    owners = len(np.unique(train.owners)) - len(whole)
    return (f"{owners} owner(s) with {records} training record(s) are not among the clients.",)


def _held_back(scenario: Scenario, whole: Population, records: int) -> tuple[Population, Population] | None:
    """What the clients train on and what they hold back, or None where the source's own test records serve."""
    evaluation = scenario.evaluation
    keys = generator(scenario.seed, Stream.HELD_OUT).random(records)
    if evaluation.folds is not None:
        parts = hold_back_fold(whole, evaluation.fold or 1, evaluation.folds, keys)
    elif isinstance(evaluation.test, PerClient):
        parts = hold_back(whole, evaluation.test.fraction, keys)
    else:
        return None
    if len(parts[1].indices) == 0:
        raise BadInput(
            f"evaluation: no client has enough records to hold one back for testing (the largest has "
            f"{int(whole.sizes.max())}). Use fewer clients or folds, or the source's own test records."
        )
    return parts


def taken(examples: Examples, records: Indices) -> Examples:
    """Some of the examples, by number."""
    owners = None if examples.owners is None else examples.owners[records]
    return Examples(examples.features[records], examples.labels[records], owners)


def of_training_owners(scenario: Scenario, holdings: Holdings) -> int:
    """How many test records of the source belong to the natural owners that are clients."""
    train, test = holdings.data.train.owners, holdings.data.test.owners
    natural = isinstance(scenario.population.partition, Natural) and holdings.held_back is None
    if not natural or train is None or test is None:
        return 0
    return int(np.isin(test, train[holdings.whole.indices]).sum())
