"""Where attacks touch a run: their records, their updates in a round, and the task that shows their success."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from fedsim.attacks import Attackers
from fedsim.seeding import Stream, generator
from fedsim.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from fedsim.federation import Federation
    from fedsim.holdings import Holdings
    from fedsim.messages import TrainJob
    from fedsim.scenario import Scenario
    from fedsim.training.work import Work


def attacked(scenario: Scenario, holdings: Holdings) -> Holdings:
    """The holdings with the clients that attack picked, and their records poisoned; raises ``BadInput``.

    Test records stay clean: they are not among those that clients train on.
    """
    attack, data, population = scenario.attack, holdings.data, holdings.population
    if attack is None:
        return holdings
    attack.check(data)
    assert len(np.unique(population.indices)) == len(population.indices), "a record of two clients"
    rng = generator(scenario.seed, Stream.ATTACK)
    attacks = attack.chosen(len(population), rng)
    train = attack.poison(data, population.of_clients(attacks).indices, rng)
    changed = "" if train is data.train else "; labels and sizes are shown as they train on them"
    note = f'{int(attacks.sum())} of {len(attacks)} clients attack (attack.kind = "{attack.kind}"){changed}.'
    data = replace(data, train=train) if changed else data
    notes = (*holdings.notes, note, *unforeseen(scenario, attacks))
    return replace(holdings, data=data, attacks=attacks, notes=notes)


def unforeseen(scenario: Scenario, attacks: NDArray[np.bool_]) -> Iterator[str]:
    """That a cohort has more attackers than its aggregation is set for, where it has."""
    assumed = getattr(scenario.algorithm.aggregation, "attackers", None)
    there = int(attacks.sum())
    expected = scenario.cohort.sampling.participation(len(attacks)) * there
    if assumed is not None and round(expected) > assumed:
        yield (
            f"algorithm.aggregation assumes {assumed} attacker(s) in a cohort, and the scenario has {expected:.3g} on "
            f"average ({there} of {len(attacks)} clients): set algorithm.aggregation.attackers."
        )


def warn_of_attackers(federation: Federation) -> None:
    """Tell whoever watches a run what ``fedsim check`` notes of an aggregation that foresees too few attackers."""
    attacks = federation.holdings.attacks
    for line in unforeseen(federation.scenario, attacks) if attacks is not None else ():
        logging.getLogger("fedsim").warning("%s", line)


def probing(scenario: Scenario, task: Task) -> Task | None:
    """The task whose accuracy is the attack's success; None where there is no attack, or clean metrics tell."""
    probe = scenario.attack.probe(task.data) if scenario.attack is not None else None
    return replace(task, data=replace(task.data, test=probe)) if probe is not None else None


def tamper(federation: Federation, work: Work, reports: Tensor) -> None:
    """Put what the attackers of a block send in the place of their reports ``[clients, report]``."""
    attack, attacks = federation.scenario.attack, federation.holdings.attacks
    if attack is None or attacks is None or not attack.tampers:
        return
    rows = np.flatnonzero(attacks[work.clients])
    if len(rows):
        attackers = Attackers(work.clients[rows], expected_cohort(federation), work.keystream)
        reports[rows] = attack.tampered(reports[rows], attackers)


def expected_cohort(federation: Federation) -> int:
    """The public expected number of clients in a round, at least one."""
    clients, method = len(federation.population), federation.scenario.asynchronous
    if method is not None:
        return method.buffer_size
    return max(1, round(federation.plan.sampling.participation(clients) * clients))


def apart(federation: Federation, clients: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The clients that may train in any block, and blocks that must not be split: attackers that see each other."""
    attack, attacks = federation.scenario.attack, federation.holdings.attacks
    if attack is None or attacks is None or not attack.colludes:
        return clients, []
    hostile = clients[attacks[clients]]
    return clients[~attacks[clients]], [hostile] if len(hostile) else []


def spread(federation: Federation, cohort: NDArray[np.int64], nodes: int) -> list[NDArray[np.int64]]:
    """The cohort in so many parts, one for each node; attackers that see each other are all in the first."""
    free, together = apart(federation, cohort)
    parts = federation.population.dealt(free, nodes)
    return [np.sort(np.concatenate([*together, parts[0]])), *parts[1:]]


def hostile_alone(federation: Federation, jobs: Iterable[TrainJob]) -> bool:
    """Whether nobody but attackers was asked: what they send says nothing about the training."""
    attacks = federation.holdings.attacks
    return attacks is not None and all(attacks[job.clients].all() for job in jobs)


def attack_summary(federation: Federation) -> dict[str, Any] | None:
    """Which attack there was, with its settings, and how many clients took part in it; None without one."""
    attack, attacks = federation.scenario.attack, federation.holdings.attacks
    if attack is None or attacks is None:
        return None
    settings = {key: value for key, value in asdict(attack).items() if key != "kind" and value is not None}
    about = str(type(attack).__doc__).splitlines()[0].replace("``", "")
    counts = {"attackers": int(attacks.sum()), "clients": len(attacks)}
    return {"kind": attack.kind, "about": about, "settings": settings, **counts, "defences": _defences(federation)}


def _defences(federation: Federation) -> list[str]:
    """What in the scenario limits a single client's influence, in words."""
    client, aggregation = federation.scenario.privacy.client, federation.scenario.algorithm.aggregation
    settings = [f"{key} = {value}" for key, value in asdict(cast("Any", aggregation)).items() if key != "kind"]
    found = []
    if aggregation.kind != "mean":
        found.append(f"aggregation {aggregation.kind}" + (f" ({', '.join(settings)})" if settings else ""))
    if client is not None:
        found.append(f"every update is clipped to length {client.clip_norm:g} ([privacy.client]), and noise is added")
    return found
