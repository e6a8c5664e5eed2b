"""FLTrust (Cao et al. 2021, arXiv 2012.13995)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.lengths import lengths, products
from fedsim.settings import Count, section


@section
@dataclass(frozen=True)
class FLTrust(Aggregator):
    """Trusts updates by their cosine with one that the server trains itself; weights are not used.

    The server's own comes from ``root_records`` of the source's test records, drawn evenly: they are declared public
    by this, and are no test records any more.
    """

    kind: Literal["fltrust"] = "fltrust"
    root_records: Count = 100
    compares_with: ClassVar[Literal["previous", "root"] | None] = "root"

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """The mean of the updates made as long as ``reference``, weighted by their cosines with it where positive.

        Zero where no update is trusted. Raises ``ValueError`` without a reference.
        """
        if reference is None:
            raise ValueError("fltrust compares updates with one of root records, and got none")
        root = reference.to(updates.dtype)
        length, norms = torch.linalg.vector_norm(root.double()), lengths(updates)
        towards = products(root, updates).clamp(min=0)
        trusted = (towards > 0) & (norms > 0)
        trust = torch.where(trusted, towards / (norms * length), 0.0)
        if not float(trust.sum()) > 0:
            return torch.zeros_like(root)
        shares = torch.where(trusted, trust / trust.sum() * length / norms, 0.0)
        return shares.to(updates.dtype) @ updates
