"""fedsim: privacy-preserving federated learning, simulated and deployed from one scenario file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# A privacy tool phones nobody; these must be set before the libraries are imported.
os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1")

if TYPE_CHECKING:
    from fedsim.describing import describe
    from fedsim.errors import BadInput, BudgetExhausted, FedsimError
    from fedsim.loading import ScenarioError, load_scenario, parse_scenario
    from fedsim.report import build_report
    from fedsim.running import Result, resume, run
    from fedsim.scenario import Scenario
    from fedsim.sweeps import SweepResult, sweep

_HOMES = {
    "BadInput": "fedsim.errors",
    "BudgetExhausted": "fedsim.errors",
    "FedsimError": "fedsim.errors",
    "Result": "fedsim.running",
    "Scenario": "fedsim.scenario",
    "ScenarioError": "fedsim.loading",
    "SweepResult": "fedsim.sweeps",
    "build_report": "fedsim.report",
    "describe": "fedsim.describing",
    "load_scenario": "fedsim.loading",
    "parse_scenario": "fedsim.loading",
    "resume": "fedsim.running",
    "run": "fedsim.running",
    "sweep": "fedsim.sweeps",
}

__all__ = [
    "BadInput",
    "BudgetExhausted",
    "FedsimError",
    "Result",
    "Scenario",
    "ScenarioError",
    "SweepResult",
    "build_report",
    "describe",
    "load_scenario",
    "parse_scenario",
    "resume",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import torch, Flower and the rest only when something is used, so that the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
