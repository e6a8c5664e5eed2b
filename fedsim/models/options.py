"""What every model's settings have in common: where its weights start, and which of them train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsim.settings import Count, Positive, section


@section
@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank updates of linear layers (Hu et al. 2021, arXiv 2106.09685), for layers named in ``targets``.

    A layer's weight W ``[outputs, inputs]`` and its bias stay as they are; W + alpha / rank * B A is used, of which
    B ``[outputs, rank]`` and A ``[rank, inputs]`` train. ``alpha`` left out is ``rank``. All other parameters are
    frozen but those in ``train``, which train whole.
    """

    rank: Count
    alpha: Positive | None = None
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    train: tuple[str, ...] | None = None

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@section
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of every model; names may hold the wildcards ``*`` and ``?``.

    ``initial`` is a safetensors file to start from, such as a run's model.safetensors; a relative path is relative to
    the current folder. Names and shapes must be the model's, except for the parameters in ``initial_skip``, which start
    as if there were no file. ``initial_sha256`` is what the file must hold; a run that starts without it writes it into
    its scenario. Parameters in ``freeze`` are not trained: they get neither gradients nor noise, and are not sent.
    """

    initial: str | None = None
    initial_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    initial_skip: tuple[str, ...] | None = None
    freeze: tuple[str, ...] | None = None
    lora: Lora | None = None
