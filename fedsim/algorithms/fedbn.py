"""FedBN (Li et al. 2021, arXiv 2102.07623): normalisation layers that are each client's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from fedsim.algorithms.personal import PrivateParameters
from fedsim.errors import BadInput
from fedsim.params import Layout
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class FedBN(PrivateParameters):
    """Every client keeps the scale and shift of its normalisation layers, of any kind; all else is federated.

    The paper's are of batch normalisation, whose running statistics no model here may keep.
    """

    name: Literal["fedbn"] = "fedbn"

    def private(self, layout: Layout) -> Collection[str]:
        """The normalisation layers' parameters; raises ``BadInput`` if none of them trains, or nothing else."""
        names = [name for name in layout.names if name in layout.normalising]
        if not names:
            raise BadInput(
                'algorithm.name = "fedbn": the model has no normalisation layer that trains; set '
                'model.normalisation = "group" or "layer", where the model has it.'
            )
        if len(names) == len(layout.names):
            raise BadInput('algorithm.name = "fedbn": nothing but normalisation layers trains, so nothing is shared.')
        return names
