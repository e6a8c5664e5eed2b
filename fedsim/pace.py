"""How fast a federation goes: its clients' devices, what a round asks of them, and an asynchronous run's schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.asynchronous.schedule import Schedule
from fedsim.devices import Fleet, Load
from fedsim.devices.rates import Floats
from fedsim.privacy.planning import example_rates, local_steps
from fedsim.scenario import Scenario


@dataclass(frozen=True)
class Pace:
    """The clients' devices, the load of all clients in a round, and who starts and arrives when if nobody waits."""

    fleet: Fleet
    load: Load
    schedule: Schedule | None = None

    def load_of(self, clients: NDArray[np.int64]) -> Load:
        """What a round asks of some clients."""
        return Load(self.load.examples[clients], self.load.bytes_down, self.load.bytes_up)


def make_pace(scenario: Scenario, sizes: NDArray[np.int64], bytes_down: int, bytes_up: int) -> Pace | None:
    """The pace of clients with ``sizes`` records; None without ``[devices]``. Raises ``BadInput`` for bad traces."""
    if scenario.devices is None:
        return None
    fleet = Fleet.of(scenario.devices, len(sizes), scenario.seed, scenario.draw_seed)
    load = Load(examples_trained(scenario, sizes), bytes_down, bytes_up)
    method = scenario.asynchronous
    return Pace(fleet, load, Schedule(method, fleet, load, scenario.rounds) if method is not None else None)


def examples_trained(scenario: Scenario, sizes: NDArray[np.int64]) -> Floats:
    """How many examples each client trains on in a round ``[clients]``; under DP-SGD how many are expected."""
    local, example = scenario.algorithm.local, scenario.privacy.example
    if example is not None:
        rates = example_rates(scenario, example, sizes)
        return np.asarray(local_steps(scenario, rates) * rates * sizes, np.float64)
    if local.steps is None or scenario.algorithm.one_step:
        return np.asarray(local.epochs * sizes, np.float64)
    passes, rest = np.divmod(local.steps, -(-sizes // local.batch_size))
    return np.asarray(passes * sizes + rest * local.batch_size, np.float64)
