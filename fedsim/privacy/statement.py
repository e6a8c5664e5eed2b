"""The privacy statement of a run: every field that makes the number mean something (design, section 5, rule 7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.communication.statement import communication_assumptions
from fedsim.federation import Federation
from fedsim.population import Natural
from fedsim.privacy.accounting import cross_check
from fedsim.privacy.clip_settings import AdaptiveClip
from fedsim.privacy.events import Composition
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.plan import ClientPlan, ExamplePlan
from fedsim.privacy.sampling import Cyclic
from fedsim.privacy.statement_algorithm import beside_updates
from fedsim.privacy.statement_devices import device_assumptions

CONVERSION = (
    "privacy loss distributions, discretised pessimistically (connect the dots), composed by FFT and converted to "
    "(epsilon, delta) numerically; the closed form of the Gaussian mechanism where nothing is sub-sampled"
)
ONE_OWNER = "A {unit} {held}. A person with records at several clients is not covered as a whole."
HELD_BACK = "Which records a client holds back for testing counts as public; the guarantee is for those trained on."
ALL_FOLDS = (
    "Which records a client holds back in which fold counts as public. The guarantee is for every record of the "
    "clients that train: each is trained on in all folds, or in all but one."
)
SEES_UPDATES = (
    "anyone who sees everything a client sends in every round: the server, the other clients, "
    "and whoever gets a model (noise is added inside the client, before anything leaves it)"
)
SEES_MODELS = (
    "anyone who sees the global models of all rounds: the other clients and whoever gets the final model. "
    "Not the server: it sees clipped updates before the noise is added, and has to be trusted"
)


def privacy_entries(federation: Federation, ledger: Ledger) -> list[dict[str, Any]]:
    """One entry per protected unit, or a single one with epsilon = infinity when nothing is protected."""
    plans = federation.plan.units
    if not plans:
        return [_nothing()]
    return [_entry(federation, ledger, plan) for plan in plans]


def _nothing() -> dict[str, Any]:
    return {
        "unit": "none",
        "epsilon": float("inf"),
        "delta": 0.0,
        "relation": "none",
        "adversary": "nobody: this run gives no privacy guarantee",
        "accountant": "none",
        "sampling": "none",
        "noise_multiplier": 0.0,
        "rate": 1.0,
        "steps": 0,
        "clients": {key: float("inf") for key in ("max", "median", "min")},
        "randomness": "reproducible",
    }


def _entry(federation: Federation, ledger: Ledger, plan: ExamplePlan | ClientPlan) -> dict[str, Any]:
    epsilons = ledger.epsilons(plan.unit, plan.deltas)
    worst = int(epsilons.argmax())
    check = cross_check(ledger.composition(plan.unit, worst), float(plan.deltas[worst]))
    settings = getattr(federation.scenario.privacy, plan.unit)
    return {
        "unit": plan.unit,
        "epsilon": float(epsilons.max()),
        "delta": float(plan.deltas.max()),
        "accountant": "pld",
        "conversion": CONVERSION,
        "rdp": check.rdp,
        "prv": check.prv,
        "clients": _quantiles(epsilons),
        "clip_norm": plan.clip_norm,
        "target_epsilon": settings.target_epsilon,
        "budget": plan.budget,
        "clipping": plan.clipping.kind,
        "mechanism": settings.mechanism if isinstance(plan, ClientPlan) else "gaussian",
        "randomness": federation.plan.randomness,
        **_spread(ledger.compositions(plan.unit)),
        **(_example(federation, plan) if isinstance(plan, ExamplePlan) else _client(federation, plan)),
        "flags": _flags(federation, plan, float(epsilons.max())),
    }


def _quantiles(epsilons: NDArray[np.float64]) -> dict[str, float]:
    return {"max": float(epsilons.max()), "median": float(np.median(epsilons)), "min": float(epsilons.min())}


def _spread(compositions: list[Composition]) -> dict[str, Any]:
    """Noise, rate and steps over clients: one number, or the smallest and the largest."""
    events = [event for composition in compositions for event, _ in composition]
    totals = [sum(count for _, count in composition) for composition in compositions]
    return {
        "noise_multiplier": _range([event.noise_multiplier for event in events]),
        "rate": _range([event.rate for event in events]),
        "steps": _range(totals),
    }


def _range(values: list[Any]) -> Any:
    low, high = min(values, default=0), max(values, default=0)
    return low if low == high else {"min": low, "max": high}


def _example(federation: Federation, plan: ExamplePlan) -> dict[str, Any]:
    settings = federation.scenario.privacy.example
    assert settings is not None
    assumptions = [ONE_OWNER.format(unit="record", held="is held by one client")]
    if None in (settings.sampling_rate, settings.noise_multiplier) or settings.delta_times_n is not None:
        assumptions.append(
            "How many records each client holds (n_i) is treated as public: it sets the rate batch_size / n_i, the "
            "number of steps, calibrated noise, and a delta that follows the size."
        )
    if federation.task.data.kind == "tokens":
        assumptions.append(
            f"A record is a stretch of {federation.task.data.shape[0]} characters and those that follow each of them; "
            "a longer text is many records and is not covered as a whole."
        )
    if federation.holdings.held_back is not None:
        assumptions.append(ALL_FOLDS if len(federation.scenario.runs) > 1 else HELD_BACK)
    assumptions += _chosen_owners(federation)
    if federation.weighting == "examples":
        assumptions.append("Updates are weighted by the number of records, which is treated as public.")
    if settings.delta_times_n is not None:
        assumptions.append("Each client has its own delta, delta_times_n / n_i; the largest is shown.")
    assumptions += communication_assumptions(federation.scenario.communication, "example")
    assumptions += device_assumptions(federation, plan)
    if isinstance(plan.clipping, AdaptiveClip):
        assumptions.append(
            "The clip norm follows noised counts of the clients' gradients, which the same epsilon covers."
        )
    assumptions.append("No amplification by sampling clients is claimed: the server knows who takes part.")
    assumptions += beside_updates(federation, plan)
    sizes = federation.population.sizes
    return {
        "relation": "add-remove",
        "adversary": SEES_UPDATES,
        "sampling": "poisson",
        "placement": "client",
        "n": int(sizes.sum()),
        "delta_times_n": float((plan.deltas * sizes).sum()),
        "assumptions": assumptions,
    }


def _client(federation: Federation, plan: ClientPlan) -> dict[str, Any]:
    settings = federation.scenario.privacy.client
    assert settings is not None
    members = settings.projected.population if settings.projected else len(federation.population)
    return {
        "relation": plan.event.relation,
        "adversary": SEES_UPDATES if plan.placement == "client" else SEES_MODELS,
        "sampling": plan.event.sampling,
        "placement": plan.placement,
        "n": members,
        "delta_times_n": float(plan.deltas.max()) * members,
        "assumptions": [
            ONE_OWNER.format(unit="user", held="is one client"),
            *_chosen_owners(federation),
            *_client_assumptions(federation, plan),
            *communication_assumptions(federation.scenario.communication, plan.placement),
            *beside_updates(federation, plan),
            *device_assumptions(federation, plan),
        ],
        "projected": settings.projected is not None,
    }


def _chosen_owners(federation: Federation) -> list[str]:
    """That it counts as public which owners take part, where that depends on their records."""
    population = federation.scenario.population
    partition = population.partition
    if not isinstance(partition, Natural) or (partition.min_size == 1 and population.clients is None):
        return []
    drawn = "" if population.clients is None else f" {population.clients} were drawn from"
    return [
        f"Which owners are clients counts as public:{drawn} those with at least {partition.min_size} record(s). One "
        "record more or less could let an owner in or keep it out, with all of its records."
    ]


def _client_assumptions(federation: Federation, plan: ClientPlan) -> Iterator[str]:
    sampling = federation.plan.sampling
    yield "The number of clients, and which of them form a group that takes turns, is public."
    if plan.placement == "client":
        yield "Each client noises its own update, so the guarantee does not rest on the server; no sampling is claimed."
        return
    if plan.event.sampling == "poisson":
        yield "Who takes part in a round is kept secret; the rate is public."
    if isinstance(sampling, Cyclic):
        yield (
            f"Clients form {sampling.groups} groups that take turns, which is public; the schedule is enforced, so "
            f"that two participations of a client are at least {sampling.groups} rounds apart."
        )
    if isinstance(plan.clipping, AdaptiveClip):
        yield "The clip norm follows a noised count of the clipped updates, which the same epsilon covers."


def _flags(federation: Federation, plan: ExamplePlan | ClientPlan, epsilon: float) -> list[str]:
    flags = []
    if epsilon > 50:
        flags.append(f"Epsilon {epsilon:.3g} is so large that it guarantees nothing in practice.")
    elif epsilon > 10:
        flags.append(f"Epsilon {epsilon:.3g} is a weak guarantee.")
    settings = federation.scenario.privacy.client
    if plan.unit == "client" and settings is not None and settings.projected is not None:
        flags.append(
            f"Projected: the noise is that of a hypothetical deployment with {settings.projected.cohort} clients a "
            f"round out of {settings.projected.population}. The clients simulated here have no such guarantee."
        )
    if federation.scenario.privacy.ledger is not None:
        flags.append(
            "The epsilon composes all runs in the shared ledger that protected this unit. A run that did not, or that "
            "split the same people into clients otherwise, is not in it."
        )
    evaluation = federation.scenario.evaluation
    if evaluation.fold is not None:
        flags.append(
            f"This is fold {evaluation.fold} of {evaluation.folds} alone. The others train on most of the same records "
            "and compose with it; the statement of the whole cross-validation adds them up."
        )
    return flags
