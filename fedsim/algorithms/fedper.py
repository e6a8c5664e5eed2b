"""FedPer (Arivazhagan et al. 2019, arXiv 1912.00818): shared first layers, and a head that is each client's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from fedsim.algorithms.personal import PrivateParameters
from fedsim.errors import BadInput
from fedsim.models.names import listed, matching
from fedsim.params import Layout
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class FedPer(PrivateParameters):
    """Every client keeps a head of its own, which never leaves it; the layers before it are federated.

    ``head`` names its parameters, with the wildcards ``*`` and ``?``; left out, it is the last layer that trains.
    """

    name: Literal["fedper"] = "fedper"
    head: tuple[str, ...] = ()

    def private(self, layout: Layout) -> Collection[str]:
        """The head's parameters; raises ``BadInput`` if a pattern matches none, or if they are all there are."""
        if self.head:
            names = matching("algorithm.head", self.head, layout.names)
        else:
            last = layout.names[-1].rpartition(".")[0]
            names = {name for name in layout.names if name.rpartition(".")[0] == last}
        if len(names) == len(layout.names):
            raise BadInput(
                f"algorithm.head = {list(self.head)}: every parameter that trains would be private "
                f"({listed(layout.names)}), and nothing shared. Name fewer, use a deeper model, or "
                'algorithm.name = "local".'
            )
        return names
