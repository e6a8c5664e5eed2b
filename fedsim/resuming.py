"""Going back to a run's last checkpoint."""

from __future__ import annotations

import logging

from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.fingerprint import fingerprint
from fedsim.privacy.events import Event
from fedsim.privacy.plan import Charge
from fedsim.record import Progress
from fedsim.server import Session

_MISFIT = (
    "The checkpoint of {path} does not go with its scenario.toml ({why}): that was changed, or another version of "
    "fedsim wrote it. Put it back or resume with that version, or run the scenario again."
)


def go_back(session: Session) -> None:
    """Take up the last checkpoint, or the start if there is none."""
    directory = session.directory
    rounds = directory.path / "rounds.jsonl"
    begun = rounds.exists() and rounds.stat().st_size > 0
    checkpoint = directory.load_checkpoint()
    if checkpoint is None and begun:
        logging.getLogger("fedsim").warning(
            "%s: no checkpoint is left, so the run begins again; with secure randomness every round is charged anew.",
            directory.path,
        )
    if checkpoint is not None:
        _restore(session, *checkpoint)
    elif session.store is not None:
        session.store.rewind(0)
    directory.discard_end()
    plan, randomness = session.federation.plan.client, session.federation.plan.randomness
    if session.correlation is not None and plan is not None and randomness == "secure":
        # The round released again carries earlier rounds' clients too, under new noise: all pay for one more event.
        again = Event(plan.event.noise_multiplier, 1.0, "none", plan.event.relation)
        session.ledger.charge(0, [Charge("client", again, 1, None)])


def _restore(session: Session, tensors: dict[str, Tensor], progress: Progress) -> None:
    """Take a checkpoint's state back; raises ``FedsimError`` if it does not go with the scenario or the ledger."""
    path = session.directory.path
    if session.ledger.position < progress.ledger_position:
        raise FedsimError(
            f"The ledger of {path} holds less than what was charged up to round {progress.round}: it was removed, or "
            "replaced by an older copy. Put it back, then resume."
        )
    if progress.scenario != fingerprint(session.federation.scenario):
        raise FedsimError(_MISFIT.format(path=path, why="other settings decide its numbers"))
    try:
        session.restore(tensors, progress)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FedsimError(_MISFIT.format(path=path, why=error)) from error
