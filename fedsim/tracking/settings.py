"""The section ``[output]`` of a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the record's numbers go too while the run goes on; each of the ``sinks`` writes below ``directory``.

    Left out, ``directory`` is ``tracking`` in the run directory. What is written stays on this machine.
    """

    sinks: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    directory: str | None = None
