"""What the clients' devices are like: quantiles over clients, for ``fedsim describe``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.devices.rates import Floats
from fedsim.pace import make_pace
from fedsim.scenario import Scenario

SHARES = {"min": 0.0, "tenth": 0.1, "median": 0.5, "nine_tenths": 0.9, "max": 1.0}
NAMES = {
    "examples_per_second": "examples per second",
    "upload_bytes_per_second": "upload, bytes per second",
    "download_bytes_per_second": "download, bytes per second",
    "training_seconds": "seconds of training in a round",
}


def describe_devices(scenario: Scenario, sizes: NDArray[np.int64]) -> dict[str, Any] | None:
    """Quantiles of the clients' rates and times as plain values; None without ``[devices]``. Raises ``BadInput``."""
    pace = make_pace(scenario, sizes, 0, 0)
    if pace is None:
        return None
    fleet, everybody = pace.fleet, np.arange(len(sizes))
    columns = (fleet.speed, fleet.upload, fleet.download, pace.load.examples / fleet.speed)
    return {
        **{name: _quantiles(values) for name, values in zip(NAMES, columns, strict=True)},
        "latency_seconds": fleet.settings.latency_seconds,
        "available_at_start": float(fleet.available(everybody, 1, 0.0).mean()),
    }


def _quantiles(values: Floats) -> dict[str, float]:
    return dict(zip(SHARES, np.quantile(values, list(SHARES.values())).tolist(), strict=True))


def devices_text(described: dict[str, Any]) -> list[str]:
    """A line for each quantity."""
    lines = [
        f"{words}: " + ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in described[key].items())
        for key, words in NAMES.items()
    ]
    return [*lines, f"clients that are there when the run begins: {100 * described['available_at_start']:.1f} %"]
