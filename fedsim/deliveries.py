"""Who of those that were asked delivered, over a run: counted round by round, and said where hardly anybody does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fedsim.outings import Outing, charges
from fedsim.record import Progress

if TYPE_CHECKING:
    from fedsim.server import Session

# After so many rounds in which nobody delivered, whoever watches is told.
PATIENCE = 3


def count_deliveries(session: Session, outing: Outing, answered: int) -> int:
    """Add a round's deliveries to the run's; how many of those asked dropped out."""
    progress = session.progress
    dropped = len(outing.asked) - outing.surplus - answered
    progress.asked += len(outing.asked)
    progress.arrived += outing.uploads(answered)
    progress.drop_outs += dropped
    progress.late += outing.late
    progress.absent += outing.absent
    progress.surplus += outing.surplus
    progress.forgot += len(outing.forgetful)
    if outing.round == PATIENCE and progress.drop_outs and not progress.arrived:
        _warn(progress, charged=bool(charges(session.federation.plan, outing)))
    return dropped


def _warn(progress: Progress, charged: bool) -> None:
    spent = " Their privacy budget is spent all the same." if charged else ""
    logging.getLogger("fedsim").warning(
        "In the first %d rounds none of the %d clients that were asked delivered: look at [devices] (%d were late, %d "
        "not there).%s",
        PATIENCE,
        progress.asked,
        progress.late,
        progress.absent,
        spent,
    )


def deliveries(progress: Progress) -> dict[str, int]:
    """What ``summary.json`` says of it; in an asynchronous run some are still at work at the end."""
    return {
        "asked": progress.asked,
        "arrived": progress.arrived,
        "dropped": progress.drop_outs,
        "late": progress.late,
        "absent": progress.absent,
        "surplus": progress.surplus,
        "forgot": progress.forgot,
        "rejected": progress.rejected,
    }


def staleness(outing: Outing) -> dict[str, float | None]:
    """How many steps late the updates of an asynchronous run's step were; None where there were none."""
    if outing.turn is None:
        return {}
    late = outing.turn.staleness
    mean, most = (float(late.mean()), int(late.max())) if len(late) else (None, None)
    return {"staleness_mean": mean, "staleness_max": most}
