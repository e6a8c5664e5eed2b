"""What the privacy statement says of devices, drop-outs and asynchronous runs."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.federation import Federation
from fedsim.privacy.plan import ClientPlan, ExamplePlan


def device_assumptions(federation: Federation, plan: ExamplePlan | ClientPlan) -> Iterator[str]:
    """What the guarantee takes for public where clients run on simulated devices, a sentence each."""
    if federation.pace is None:
        return
    yield (
        "When a client is there, how long it takes and whether it fails count as public: they follow from its device "
        "and from how many records it holds, not from what is in them."
    )
    if isinstance(plan, ClientPlan) and federation.plan.hides_the_cohort:
        yield (
            "When each round ends tells of who was drawn, which must stay secret: who gets the models must not see it, "
            "unless the server lets every round last equally long."
        )
    if federation.pace.schedule is None or not isinstance(plan, ClientPlan):
        return
    if plan.placement == "server":
        yield (
            "Who begins and who arrives when is public and stays as it is when a client's data become nothing, so no "
            "benefit of drawing clients is claimed. A client is charged for each step that its update is added to, "
            "before the step is made; no step holds two updates of one client, and none counts more than its clip norm."
        )
    else:
        yield "A client is charged each time it begins: its noised update may be seen before any step uses it."


def drop_out_sentence(federation: Federation, unit: str, asked: int, lost: int) -> str:
    """How often clients that were asked did not deliver, and what that changes."""
    times = f"In {lost:,} of {asked:,} cases a client that was asked did not deliver. "
    assert federation.pace is not None
    if unit == "example" or not federation.plan.trusts_the_server:
        return times + "It was charged for what it would have sent all the same, so epsilon does not fall by it."
    if federation.pace.schedule is not None:
        return times + (
            "Its update was added to no step, so it was charged for none; the noise of each step and what the sum is "
            "divided by stayed as they were."
        )
    return times + (
        "To the guarantee it is a zero: the noise and what the sum is divided by stayed as they were, every round was "
        "charged, and epsilon is what it is without drop-outs."
    )
