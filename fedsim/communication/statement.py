"""What compression means for a privacy guarantee, in the statement's words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fedsim.communication.channel import Communication

ORDER = {
    "example": (
        "Updates are compressed after DP-SGD has noised them{lost}: what is made of a noised update costs nothing."
    ),
    "server": (
        "Updates are compressed, restored and only then clipped{lost}: one client adds at most the clip norm to a "
        "round's sum, whatever compression made of its update."
    ),
    "client": (
        "Each client compresses what it has clipped and noised{lost}: what is made of a noised update costs nothing."
    ),
}
SIZES = "A message's size depends on the model and the scenario alone, never on what is in it."


def communication_assumptions(
    settings: Communication, noised_by: Literal["example", "server", "client"]
) -> Iterator[str]:
    """Why compression leaves the guarantee as it is, where ``noised_by`` says who noises what."""
    if settings.compresses:
        lost = ", with what earlier rounds lost of them added before" if settings.error_feedback else ""
        yield f"{ORDER[noised_by].format(lost=lost)} {SIZES}"


def communication_outside(settings: Communication) -> Iterator[str]:
    """What error feedback keeps."""
    if settings.error_feedback:
        yield (
            "What compression lost of each client's updates (error feedback) stays with the client; in a simulation it "
            "lies in the run's folder state, which is for the experimenter only."
        )
