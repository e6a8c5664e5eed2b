"""What the server and the sites agree on: the scenario as sites see it, and its digest."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from fedsim.scenario import EngineSettings, Scenario


def agreed(scenario: Scenario) -> Scenario:
    """The scenario without what is nobody's business but the server's: paths, the engine, and where randomness is from.

    Randomness is secure at the sites, whatever the scenario says.
    """
    privacy = replace(scenario.privacy, randomness="secure", ledger=None)
    engine = EngineSettings(kind="deployment", trainer=scenario.engine.trainer)
    return replace(scenario, privacy=privacy, engine=engine, data=without_paths(scenario.data))


def without_paths(data: Any) -> Any:
    """The data's declaration without the files that it was simulated with."""
    changed: dict[str, Any] = {}
    for field in fields(data):
        if field.name == "path" and getattr(data, "path") is not None:  # noqa: B009 (entries without it have no such field)
            changed["path"] = "site"
        if field.name == "test_path":
            changed["test_path"] = None
    return replace(data, **changed)
