"""What the privacy statement says of devices, drop-outs and asynchronous runs."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.federation import Federation
from fedsim.privacy.plan import ClientPlan, ExamplePlan
from fedsim.record import Progress


def device_assumptions(federation: Federation, plan: ExamplePlan | ClientPlan) -> Iterator[str]:
    """What the guarantee takes for public where clients run on simulated devices, a sentence each."""
    if federation.pace is None:
        return
    yield (
        "When a client is there, how long it takes and whether it would fail if it were drawn count as public: they "
        "follow from its device and from how many records it holds, not from what is in them."
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


def drop_out_sentences(federation: Federation, unit: str, progress: Progress) -> Iterator[str]:
    """How often clients that were asked did not deliver, as far as that may be known, and what it changes."""
    yield f"{_how_often(progress, federation.plan.hides_the_cohort)} {_what_it_changes(federation, unit)}"
    if progress.forgot:
        often = "Some clients" if federation.plan.hides_the_cohort else f"In {progress.forgot:,} cases a client"
        yield (
            f"{often} failed after sending (after_upload): the update counts and is charged as any other; only what "
            "the client would have kept for itself is as it was before."
        )


def _how_often(progress: Progress, secret: bool) -> str:
    """With the reasons; without any number where it would tell how many were drawn."""
    if secret:
        return (
            "Of clients that are asked, some may not deliver: how many were asked and how many did not tells how many "
            "were drawn, so it is in the record (deliveries), which is for the experimenter only, and not here."
        )
    times = f"In {progress.drop_outs:,} of {progress.asked:,} cases a client that was asked did not deliver"
    if not progress.drop_outs:
        return f"{times}."
    failed = progress.drop_outs - progress.late - progress.absent
    return f"{times}: {failed:,} failed, {progress.late:,} were late and {progress.absent:,} were not there."


def _what_it_changes(federation: Federation, unit: str) -> str:
    assert federation.pace is not None
    if unit == "example" or not federation.plan.trusts_the_server:
        return "Who does not deliver is charged for what it would have sent, so epsilon does not fall by it."
    if federation.pace.schedule is not None:
        return (
            "Who does not deliver is added to no step, so it is charged for none; the noise of each step and what the "
            "sum is divided by stay as they are."
        )
    return (
        "To the guarantee a client that does not deliver is a zero: the noise and what the sum is divided by stay as "
        "they are, every round is charged, and epsilon is what it is without drop-outs."
    )
