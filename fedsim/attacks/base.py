"""What an attack offers: who attacks, what they do to their records and their updates, and what success is."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedsim.data.dataset import Dataset, Examples
from fedsim.errors import BadInput
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Attackers:
    """Those of a round, in the order of their updates, and what they know: each other, and the protocol.

    ``cohort`` is the public expected number of clients of a round. How many there really are must not show in what
    attackers send: under client-level privacy it is secret.
    """

    clients: Numbers
    cohort: int
    keystream: Keystream

    def normals(self, count: int, device: torch.device) -> Float[Tensor, "attackers count"]:
        """Standard normals, each attacker's from its own words of the round."""
        clients = torch.from_numpy(self.clients).to(device)
        # One by one: they are made in float64, of which whole models of many attackers may not fit.
        rows = [self.keystream.normals(Stream.ATTACK, client, 0, count).float() for client in clients.split(1)]
        return torch.cat(rows)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Hostile clients, simulated to study robustness; its fields are the settings of ``[attack]`` in a scenario.

    ``fraction`` is the share of the clients that attack, which the scenario's seed picks for the whole run.
    """

    kind: str
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    # Whether it needs labels that are classes; whether it changes updates; and whether for that the attackers of a
    # round must see each other's.
    for_classes: ClassVar[bool] = False
    tampers: ClassVar[bool] = True
    colludes: ClassVar[bool] = False

    def chosen(self, clients: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Who attacks ``[clients]``; raises ``BadInput`` where that is nobody or everybody."""
        attackers = round(self.fraction * clients)
        if not 0 < attackers < clients:
            raise BadInput(
                f"attack.fraction = {self.fraction}: of {clients} client(s) {attackers} would attack; at least one "
                "must, and at least one must not."
            )
        attacks = np.zeros(clients, bool)
        attacks[rng.choice(clients, attackers, replace=False)] = True
        return attacks

    def check(self, data: Dataset) -> None:
        """Raise ``BadInput`` where the attack is not for this data."""
        if self.for_classes and data.kind != "classes":
            raise BadInput(
                f'attack.kind = "{self.kind}": it needs labels that are classes; those of this data are {data.kind}.'
            )

    def poison(self, data: Dataset, records: Numbers, rng: np.random.Generator) -> Examples:
        """The training examples ``[n]``, the attackers' ``records`` (their numbers) as the attackers want them."""
        return data.train

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """What the attackers of a round send in place of their honest updates."""
        return updates

    def probe(self, data: Dataset) -> Examples | None:
        """Test examples labelled as the attacker wants them called: the accuracy on them is the attack's success.

        None where success shows in the clean metrics alone. Raises ``BadInput`` where no test record would tell.
        """
        return None


def check_class(path: str, label: int, data: Dataset) -> None:
    """Raise ``BadInput`` for a number that is no class of the data."""
    if label >= len(data.names):
        raise BadInput(f"{path} = {label}: the data has {len(data.names)} classes, numbered from 0.")


def telling(path: str, test: Examples, which: NDArray[np.bool_]) -> Examples:
    """The test examples ``which`` ``[n]`` tell of success; raises ``BadInput`` where none does."""
    if not which.any():
        raise BadInput(f"{path}: no test record shows whether the attack succeeds. Choose other classes or test data.")
    return Examples(test.features[which], test.labels[which])
