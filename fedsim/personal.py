"""Clients' own models beside the global one: how good each is on the records that its client holds back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.algorithms import Given
from fedsim.client import blocks, second_pass
from fedsim.errors import FedsimError
from fedsim.evaluation import PERSONAL, better, by_client, client_values, compared, spread
from fedsim.params import bind_vector
from fedsim.population.population import Indices
from fedsim.privacy.keystream import Keystream
from fedsim.training.work import Work

if TYPE_CHECKING:
    from fedsim.federation import Federation
    from fedsim.server import Session

Values = NDArray[np.float64]

GAIN_BINS = 21


def personal_metrics(session: Session, round_: int) -> dict[str, float]:
    """The compared metric of the personal models over clients, where clients have any and hold records back."""
    values = personal_values(session, round_)
    if values is None:
        return {}
    return spread(compared(session.federation.task.objective), values, PERSONAL)


def personal_values(session: Session, round_: int) -> Values | None:
    """The compared metric of each tested client's own model after a round; computed once a round.

    Raises ``FedsimError`` if every personal model is NaN or infinite, in a run without privacy.
    """
    federation = session.federation
    if not federation.personalises:
        return None
    if session.personal is None or session.personal[0] != round_:
        session.personal = round_, _measured(session, round_)
    return session.personal[1]


def _measured(session: Session, round_: int) -> Values:
    federation, held_back = session.federation, session.federation.holdings.held_back
    assert held_back is not None
    tested = np.flatnonzero(held_back.sizes > 0)
    measured, finite = np.empty(0), False
    for block in blocks(federation, tested):
        models = personal_models(session, round_, block)
        finite |= bool(torch.isfinite(models).all(1).any())
        for client, model in zip(block.tolist(), models, strict=True):
            bind_vector(federation.module, model)
            part = slice(*held_back.offsets[client : client + 2].tolist())
            own = federation.trainer.task.measure(federation.trainer.module, part)
            measured = measured if len(measured) else np.empty((len(held_back.indices), own.shape[1]))
            measured[part] = own
    if not finite and not federation.plan.units:  # to stop because of it would tell of what no noise covers
        raise FedsimError(
            f"Training diverged in round {round_}: every client's own model is NaN or infinite. Lower a learning rate."
        )
    task = federation.trainer.task
    return by_client(task.objective, measured, task.objective.labels(task.data.test), held_back)


def personal_models(session: Session, round_: int, clients: Indices) -> torch.Tensor:
    """Some clients' own models after a round ``[clients, params]``.

    What is trained for it draws from the scenario's seed whatever the randomness: nothing of it is released or noised.
    """
    federation, server = session.federation, session.server
    algorithm, size = federation.scenario.algorithm, federation.scenario.algorithm.state_size(federation.layout)
    kept = session.store.read(clients) if session.store is not None else np.zeros((len(clients), 0), np.float32)
    keystream = Keystream.of("reproducible", federation.scenario.draw_seed, round_)
    none = np.zeros((len(clients), 0), np.int64)
    again = second_pass(federation, clients, keystream)
    work = Work(clients, none[0], none, keystream, 1, again=again)
    state = torch.from_numpy(kept[:, :size]).to(federation.device)
    given = Given(server.params.detach(), session.memory, state, federation.start, federation.layout)
    return algorithm.personal_models(federation.trainer, given, work)


def gains(session: Session) -> dict[str, Any] | None:
    """How many clients' own models are better or worse than the global one, and a histogram of the differences.

    Larger differences are better, whether more or less of the metric is. None where there is nothing to compare with.
    """
    values = personal_values(session, session.progress.round)
    if values is None or session.federation.scenario.algorithm.global_is is not None:
        return None
    metric = compared(session.federation.task.objective)
    gain = (values - client_values(session.federation, session.server.params)) * better(metric)
    known = gain[np.isfinite(gain)]
    return {
        "metric": metric,
        "clients": len(gain),
        "better": int((known > 0).sum()),
        "worse": int((known < 0).sum()),
        "gain": gain_histogram(known) if len(known) else None,
    }


def gain_histogram(gain: Values) -> dict[str, list[float]]:
    """Bins as far to either side of 0 as the largest gain or loss, the middle one around 0."""
    most = float(np.abs(gain).max()) or 0.01  # where nobody gains or loses anything
    counts, edges = np.histogram(gain, bins=np.linspace(-most, most, GAIN_BINS + 1))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def personal_summary(federation: Federation) -> dict[str, Any] | None:
    """What a summary says of clients' own models: the metric to name first, and what the global model is."""
    algorithm = federation.scenario.algorithm
    if not algorithm.personalises:
        return None
    metric = f"{compared(federation.task.objective)}{PERSONAL}_mean" if federation.personalises else None
    return {"metric": metric, "global_is": algorithm.global_is}
