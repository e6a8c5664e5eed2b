"""What the privacy statement says of the algorithm: what is sent beside updates and models, and what clients keep."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.algorithms import Algorithm
from fedsim.federation import Federation
from fedsim.privacy.plan import ClientPlan, ExamplePlan, PrivacyPlan
from fedsim.privacy.statement_personal import personal_assumptions, personal_outside


def beside_updates(federation: Federation, plan: ExamplePlan | ClientPlan) -> Iterator[str]:
    """What the algorithm has clients and server send beside updates and models, and why the epsilon covers it."""
    algorithm = federation.scenario.algorithm
    if algorithm.also_reports is not None:
        how = (
            algorithm.also_reports_made_of
            if isinstance(plan, ExamplePlan)
            else "in one vector, which is clipped and noised as a whole"
        )
        yield f"Beside its update a client reports {algorithm.also_reports}: {how}."
    if algorithm.also_sends is not None:
        yield f"Beside the model the server sends {algorithm.also_sends}: made of the reports as they were noised."
    yield from personal_assumptions(federation)


def beside_guarantees(federation: Federation) -> Iterator[str]:
    """What clients report and keep because of the algorithm, as far as no noise covers it."""
    yield from personal_outside(federation)
    algorithm, plan = federation.scenario.algorithm, federation.plan
    if algorithm.also_reports is not None and not plan.units:
        yield f"Beside its update each client reports {algorithm.also_reports}."
    if algorithm.keeps is not None:
        yield (
            f"Each client keeps {algorithm.keeps}{_kept(algorithm, plan)}. In this simulation the folder state of the "
            "record holds what they all keep, which is for the experimenter only."
        )


def _kept(algorithm: Algorithm, plan: PrivacyPlan) -> str:
    """What reports tell of what a client keeps, and whose noise is in it."""
    without = ", without the noise that protects whole clients" if plan.client is not None else ""
    if not algorithm.keeps_what_updates_tell:
        return f"{without}. No report has any of it"
    if plan.example is not None:
        return f"{without}: it is made of noised gradients alone, so the guarantee for records covers it"
    if plan.client is not None:
        return f"{without}: it is made of its updates before they are clipped and noised, and no report has it"
    return ". No report has it, but whoever sees all reports of the client can compute it"
