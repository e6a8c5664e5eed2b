"""An asynchronous run's reports: made when their clients start, used when they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.asynchronous.schedule import Ids, Schedule, Turn
from fedsim.messages import Rows, join_rows

PREFIX = "waiting."


@dataclass
class Waiting:
    """Reports ``[waiting, report]`` that have not arrived, with the rows' clients (ascending) and weights.

    ``models`` ``[waiting, params]`` are what these clients started from, kept only if the method mixes models.
    """

    schedule: Schedule
    clients: Tensor
    weights: Tensor
    reports: Tensor
    models: Tensor

    @classmethod
    def of(cls, schedule: Schedule, report_size: int, params: int) -> Waiting:
        """Nothing waits yet."""
        kept = params if schedule.method.mixes else 0
        shapes = torch.zeros(0, report_size), torch.zeros(0, kept)
        return cls(schedule, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64), *shapes)

    def __post_init__(self) -> None:
        self._turns: Iterator[Turn] = self.schedule.turns()
        self._turn: Turn | None = None

    def turn(self, number: int) -> Turn:
        """A turn of the schedule; numbers must not fall. Those that are passed over are gone through again."""
        while self._turn is None or self._turn.number < number:
            self._turn = next(self._turns)
        return self._turn

    def add(self, answering: Ids, parts: list[Rows], params: Tensor) -> None:
        """Keep the reports of clients that started from ``params``; one that is missing or invalid weighs nothing."""
        reports = torch.zeros(len(answering), self.reports.shape[1])
        weights = torch.zeros(len(answering), dtype=torch.float64)
        if parts:
            rows = join_rows(parts)
            places = torch.from_numpy(np.searchsorted(answering, rows.clients))
            reports[places], weights[places] = torch.from_numpy(rows.reports), torch.from_numpy(rows.weights)
        models = params.detach().cpu()[: self.models.shape[1]].expand(len(answering), -1)
        clients = torch.cat([self.clients, torch.from_numpy(answering)])
        order = clients.argsort()
        self.clients = clients[order]
        self.weights = torch.cat([self.weights, weights])[order]
        self.reports = torch.cat([self.reports, reports])[order]
        self.models = torch.cat([self.models, models])[order]

    def take(self, arrived: Ids) -> tuple[Tensor, Tensor, Tensor]:
        """Weights ``[arrived]``, reports and models of those that arrive, who wait no longer."""
        here = torch.isin(self.clients, torch.from_numpy(arrived))
        assert int(here.sum()) == len(arrived)
        taken = self.weights[here], self.reports[here], self.models[here]
        for name in ("clients", "weights", "reports", "models"):
            setattr(self, name, getattr(self, name)[~here])
        return taken

    def state(self) -> dict[str, Tensor]:
        """What waits, for the checkpoint."""
        return {PREFIX + name: getattr(self, name) for name in ("clients", "weights", "reports", "models")}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take a checkpoint's state back."""
        for name in ("clients", "weights", "reports", "models"):
            setattr(self, name, tensors.pop(PREFIX + name))
