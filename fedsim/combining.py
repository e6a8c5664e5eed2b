"""How the server makes one report of every client's own: by the scenario's aggregator, or by a Flower strategy."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.federation import Federation
from fedsim.flower_strategy import FlowerStrategy
from fedsim.messages import Rows, TrainJob, join_rows
from fedsim.root import root_update

PREFIX = "combiner."


class Combiner:
    """Combines clients' reports; what it remembers from round to round is part of the checkpoint."""

    def __init__(self, federation: Federation) -> None:
        self._federation, algorithm = federation, federation.scenario.algorithm
        self._aggregator = algorithm.aggregation
        self._strategy = FlowerStrategy(algorithm, federation.layout) if algorithm.strategy else None
        self._previous: Tensor | None = None

    def combine(self, parts: list[Rows], job: TrainJob | None) -> Float[Tensor, " report"] | None:
        """The aggregated report of a round with this job, or None if there are too few reports to make one."""
        rows = _weighty(parts)
        if job is None or rows is None or len(rows.clients) < self._aggregator.least:
            return None
        device = self._federation.device
        if self._strategy is not None:
            return self._strategy.aggregate(job.round, torch.from_numpy(job.params).to(device), rows)
        reports, weights = (torch.from_numpy(array).to(device) for array in (rows.reports, rows.weights))
        combined = self._aggregator.aggregate(reports, weights, self._reference(job))
        if self._aggregator.compares_with == "previous":
            self._previous = combined
        return combined

    def state(self) -> dict[str, Tensor]:
        """What it remembers, by name."""
        previous = {} if self._previous is None else {"previous": self._previous}
        tensors = previous | (self._strategy.state() if self._strategy is not None else {})
        return {PREFIX + name: tensor for name, tensor in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take its part of a checkpoint back; raises ``FedsimError`` if a strategy's could not be saved whole."""
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        if "previous" in own:
            self._previous = own["previous"].to(self._federation.device)
        if self._strategy is not None:
            self._strategy.restore(own)

    def _reference(self, job: TrainJob) -> Tensor | None:
        root = self._federation.holdings.root
        if self._aggregator.compares_with == "root" and root is not None:
            return root_update(self._federation, root, job)
        return self._previous


def _weighty(parts: list[Rows]) -> Rows | None:
    """All reports in the order of their clients, but for those of no weight: clients without records."""
    if not parts:
        return None
    rows = join_rows(parts)
    chosen = rows.weights > 0
    return rows if chosen.all() else Rows(*(np.ascontiguousarray(part[chosen]) for part in vars(rows).values()))
