"""What runs in each of Ray's actors: the federation, and the training of the clients that a job names."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from fedsim.client import train_clients
from fedsim.errors import BadInput
from fedsim.federation import Federation, build_federation
from fedsim.loading import parse_scenario
from fedsim.messages import TrainJob, TrainReply

Floats = NDArray[np.float32]
# A list of one, so that Ray hands the reference over and not what it refers to, which is only looked up to build.
Reference = list[Any]


@dataclass(frozen=True)
class Place:
    """Where an actor runs, and what trains there."""

    node: str
    device: str
    trainer: str
    reason: str


class TrainingActor:
    """Trains clients in a process of its own; the data and the privacy plan come from the driver, by reference.

    A job's noise has a key of its own, drawn here where randomness is ``secure``: no two jobs share noise, also not a
    job with the same job sent again.
    """

    def __init__(self, scenario: str, name: str, folder: str) -> None:
        self._text, self._name = scenario, name
        self._federation: Federation | None = None
        # The user's own models and data are imported from the folder that the run was started in.
        if Path(folder).is_dir():
            os.chdir(folder)
            sys.path.insert(0, folder)

    def place(self, prepared: Reference, digest: str) -> Place:
        """Build the federation and say what came of it; raises ``BadInput`` if it is not the driver's."""
        federation = self._built(prepared)
        if federation.scenario.digest != digest:
            raise BadInput(
                "engine.address: the cluster has another version of fedsim, which reads scenarios otherwise."
            )
        node: str = ray.get_runtime_context().get_node_id()
        return Place(node, federation.device.type, federation.trainer_name, federation.trainer_reason)

    def train(self, job: TrainJob, prepared: Reference, params: Floats, memory: Floats) -> TrainReply:
        """Train a job's clients; the arrays that all jobs of a round share come beside it."""
        federation = self._built(prepared)
        # Copies: what comes from the object store cannot be written to, which torch does not like.
        return train_clients(federation, replace(job, params=np.array(params), memory=np.array(memory)))

    def _built(self, prepared: Reference) -> Federation:
        """The federation, built on first use: after a restart that is a job."""
        if self._federation is None:
            scenario = parse_scenario(self._text, self._name)
            torch.set_num_threads(max(1, int(scenario.engine.actor.cpu)))
            with warnings.catch_warnings():
                # The data lies in memory that all actors of a machine share and nobody writes to.
                warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
                self._federation = build_federation(scenario, ray.get(prepared[0]))
        return self._federation
