"""Planning before spending: what settings cost, which noise meets a target, what a ledger has left."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput
from fedsim.privacy.accounting import cross_check
from fedsim.privacy.calibration import calibrate_noise
from fedsim.privacy.events import Composition, Event, Relation, Sampling, compose


@dataclass(frozen=True)
class Question:
    """``steps`` releases at sampling ``rate``: what epsilon at ``delta`` for a noise, or what noise for an epsilon."""

    steps: int
    delta: float
    rate: float | None = None
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    relation: Relation | None = None
    sampling: Sampling = "poisson"
    population: int | None = None
    cohort: int | None = None

    def at(self, noise_multiplier: float) -> Composition:
        """The composition with this noise; raises ``BadInput`` for settings that no theorem covers."""
        relation = self.relation or ("replace-one" if self.sampling == "fixed" else "add-remove")
        if self.sampling == "fixed" and relation != "replace-one":
            raise BadInput(
                "--sampling fixed: cohorts of fixed size are accounted under --relation replace-one; under add-remove "
                "they give no amplification (use --sampling none)."
            )
        try:
            return compose([(Event(noise_multiplier, self._rate(), self.sampling, relation), self.steps)])
        except ValueError as error:
            raise BadInput(f"{error}.") from error

    def _rate(self) -> float:
        if self.sampling == "none":
            if self.rate not in (None, 1.0):
                raise BadInput(f"--rate {self.rate}: with --sampling none nothing is sub-sampled; leave it out.")
            return 1.0
        if self.population is not None and self.cohort is not None:
            if not 0 < self.cohort <= self.population:
                raise BadInput(f"--cohort {self.cohort}: must be between 1 and --population {self.population}.")
            return self.cohort / self.population
        if self.rate is None:
            raise BadInput("Give --rate, or --population and --cohort.")
        return self.rate


def answer(question: Question) -> dict[str, Any]:
    """Epsilon by the reported accountant and its cross-checks; with a target, the noise that meets it.

    Raises ``BadInput`` for an impossible question.
    """
    _check(question)
    if question.target_epsilon is not None:
        noise = calibrate_noise(question.at, question.target_epsilon, question.delta)
        return {"noise_multiplier": noise, **_epsilon(question, noise)}
    assert question.noise_multiplier is not None
    return _epsilon(question, question.noise_multiplier)


def _check(question: Question) -> None:
    if (question.noise_multiplier is None) == (question.target_epsilon is None):
        raise BadInput("Give exactly one of --noise and --target-epsilon.")
    if not 0 < question.delta < 1:
        raise BadInput(f"--delta {question.delta}: must be above 0 and below 1.")
    if question.population is not None and question.delta >= 1 / question.population:
        raise BadInput(
            f"--delta {question.delta}: must be below 1 / population = {1 / question.population:.3g}; at or above "
            "that, publishing one member's data whole would count as private."
        )
    if question.steps < 0:
        raise BadInput(f"--steps {question.steps}: must not be negative.")
    if question.noise_multiplier is not None and not question.noise_multiplier >= 0:
        raise BadInput(f"--noise {question.noise_multiplier}: must not be negative.")
    if question.target_epsilon is not None and not question.target_epsilon > 0:
        raise BadInput(f"--target-epsilon {question.target_epsilon}: must be above 0.")


def _epsilon(question: Question, noise: float) -> dict[str, Any]:
    composition = question.at(noise)
    check = cross_check(composition, question.delta)
    relation = question.relation or ("replace-one" if question.sampling == "fixed" else "add-remove")
    return {
        "epsilon": check.pld,
        "delta": question.delta,
        "accountant": "rdp" if question.sampling == "fixed" else "pld",
        "rdp": check.rdp,
        "prv": check.prv,
        "relation": relation,
        "sampling": question.sampling,
    }


def plan_scenario(path: str | Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a scenario will spend: per unit, the epsilon of a client that takes part every time it may."""
    from fedsim.federation import build_federation
    from fedsim.loading import load_scenario
    from fedsim.privacy.ledger import max_epsilon

    scenario = load_scenario(path, overrides)
    plan = build_federation(scenario).plan
    units = []
    if plan.example is not None:
        clients = range(len(plan.example.rates))
        times = plan.example.participations
        events = {compose([(plan.example.event(i), int(plan.example.steps[i]) * times)]) for i in clients}
        units.append(_unit(plan.example, max_epsilon(events, plan.example.delta), times))
    if plan.client is not None:
        events = {compose([(plan.client.event, scenario.rounds)])}
        units.append(_unit(plan.client, max_epsilon(events, plan.client.delta), scenario.rounds))
    return {"scenario": scenario.name, "digest": scenario.digest, "rounds": scenario.rounds, "privacy": units}


def _unit(plan: Any, epsilon: float, rounds: int) -> dict[str, Any]:
    noise = plan.noise_multipliers if plan.unit == "example" else [plan.event.noise_multiplier]
    return {
        "unit": plan.unit,
        "epsilon": min(epsilon, plan.budget) if plan.budget else epsilon,
        "delta": plan.delta,
        "rounds": rounds,
        "noise_multiplier": {"min": float(min(noise)), "max": float(max(noise))},
        "budget": plan.budget,
    }


def plan_ledger(path: Path, delta: float) -> dict[str, Any]:
    """What a ledger file holds: per unit the largest epsilon at ``delta`` and the number of events."""
    from fedsim.privacy.ledger import Ledger

    if not path.is_file():
        raise BadInput(f"There is no ledger at {path}.")
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            population, clients = db.execute("SELECT population, clients FROM meta").fetchone()
            units = dict(db.execute("SELECT unit, SUM(count) FROM charges GROUP BY unit"))
    except (sqlite3.DatabaseError, TypeError) as error:
        raise BadInput(f"{path} is not a privacy ledger: {error}.") from error
    ledger = Ledger(path, population, clients, run="")
    spent = {unit: {"epsilon": ledger.spent(unit, delta), "delta": delta, "events": units[unit]} for unit in units}
    ledger.close()
    return {"population": population, "clients": clients, "units": spent}
