"""Who takes part in a round: those that are drawn and can pay for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedsim.errors import BudgetExhausted
from fedsim.outings import candidates
from fedsim.privacy.plan import ExamplePlan
from fedsim.privacy.sampling import Ids
from fedsim.seeding import Stream, private_generator

if TYPE_CHECKING:
    from fedsim.server import Session


def draw_cohort(session: Session, round_: int) -> Ids:
    """The round's clients, without those whose example-level budget is spent.

    Raises ``BudgetExhausted`` when fewer clients can still take part than a round expects.
    """
    federation = session.federation
    clients, plan = len(federation.population), federation.plan
    rng = private_generator(plan.randomness, Stream.COHORT, federation.scenario.draw_seed, round_)
    cohort = candidates(federation, round_, session.progress.clock, rng)
    # A round that was charged before a crash is run again with whom it was charged for.
    charged = session.ledger.cohort(round_)
    if plan.example is None or plan.example.budget is None:
        return cohort if charged is None else charged
    able = _able(session, plan.example, cohort) if charged is None else charged
    session.left_out = len(np.setdiff1d(cohort, able))
    if charged is None and len(able) < len(cohort):
        left = _left(session, plan.example)
        expected = plan.sampling.participation(clients) * clients
        # Where sampling clients amplifies, who was drawn is secret, and stopping would tell of it.
        if left < expected and not plan.hides_the_cohort:
            raise BudgetExhausted(
                f"Round {round_} would exceed the example-level budget of epsilon {plan.example.budget:g} at "
                f"{clients - left} of {clients} clients; only {left} can still take part."
            )
    return able


def _able(session: Session, plan: ExamplePlan, clients: Ids) -> Ids:
    """The clients that can pay for one more round."""
    able = [
        charge.clients[session.ledger.affordable(charge)]
        for charge in plan.charges(clients)
        if charge.clients is not None
    ]
    return np.sort(np.concatenate(able)) if able else clients


def _left(session: Session, plan: ExamplePlan) -> int:
    """How many clients can pay for one more round; all are looked at once, later only those that were charged."""
    shared = session.federation.scenario.privacy.ledger is not None  # then other runs charge clients too
    if session.can_pay is None or shared:
        session.can_pay = np.zeros(len(session.federation.population), bool)
        session.can_pay[_able(session, plan, np.arange(len(session.can_pay)))] = True
    return int(session.can_pay.sum())


def look_again(session: Session, charged: Ids) -> None:
    """Find out which of the clients that were just charged can pay once more, if that is kept."""
    plan = session.federation.plan.example
    if session.can_pay is not None and plan is not None:
        session.can_pay[charged] = False
        session.can_pay[_able(session, plan, charged)] = True
