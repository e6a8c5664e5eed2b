"""fedsim: privacy-preserving federated learning, simulated and deployed from one scenario file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# A privacy tool phones nobody; these must be set before the libraries are imported.
os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1")

if TYPE_CHECKING:
    from fedsim.comparing import Comparison, compare
    from fedsim.describing import describe
    from fedsim.errors import BadInput, BudgetExhausted, FedsimError
    from fedsim.foresight import Plan, plan
    from fedsim.loading import ScenarioError, load_scenario, parse_scenario
    from fedsim.report import build_report
    from fedsim.result import Result
    from fedsim.running import resume, run
    from fedsim.scenario import Scenario
    from fedsim.sweeps import SweepResult, sweep
    from fedsim.tracking.exporting import export

_HOMES = {
    "BadInput": "fedsim.errors",
    "BudgetExhausted": "fedsim.errors",
    "Comparison": "fedsim.comparing",
    "FedsimError": "fedsim.errors",
    "Plan": "fedsim.foresight",
    "Result": "fedsim.result",
    "Scenario": "fedsim.scenario",
    "ScenarioError": "fedsim.loading",
    "SweepResult": "fedsim.sweeps",
    "build_report": "fedsim.report",
    "compare": "fedsim.comparing",
    "describe": "fedsim.describing",
    "export": "fedsim.tracking.exporting",
    "load_scenario": "fedsim.loading",
    "parse_scenario": "fedsim.loading",
    "plan": "fedsim.foresight",
    "resume": "fedsim.running",
    "run": "fedsim.running",
    "sweep": "fedsim.sweeps",
}

__all__ = [
    "BadInput",
    "BudgetExhausted",
    "Comparison",
    "FedsimError",
    "Plan",
    "Result",
    "Scenario",
    "ScenarioError",
    "SweepResult",
    "build_report",
    "compare",
    "describe",
    "export",
    "load_scenario",
    "parse_scenario",
    "plan",
    "resume",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import torch, Flower and the rest only when something is used, so that the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    from importlib import import_module

    if _HOMES[name] != "fedsim.errors":
        from fedsim.versions import check_versions

        check_versions()
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is public, though it is not imported yet."""
    return sorted({*globals(), *__all__})
