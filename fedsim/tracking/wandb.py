"""Weights & Biases, offline only: ``wandb sync`` uploads a run if its owner wants to."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from fedsim.tracking.base import Row, Tracked, scalars


@dataclass
class Wandb:
    """An offline run: settings as its config, rounds as its history, privacy and metrics as its summary."""

    run: Any
    needs: ClassVar[tuple[str, ...]] = ("wandb",)

    @classmethod
    def open(cls, run: Tracked) -> Self:
        """Begin with the scenario as config; nothing is sent to anybody."""
        os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true")
        import wandb

        folder = run.folder / run.own
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = wandb.Settings(
            console="off",
            silent=True,
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
        )
        made = wandb.init(
            project="fedsim", name=run.name, dir=str(folder), config=run.settings, mode="offline", settings=settings
        )
        return cls(made)

    def row(self, row: Row) -> None:
        """Log the round's numbers."""
        self.run.log(dict(scalars(row)), step=int(row["round"]))

    def close(self, summary: Row) -> None:
        """Keep the privacy statement, and end the run."""
        self.run.summary.update({name: summary.get(name) for name in ("status", "metrics", "privacy", "outside")})
        self.run.finish()
