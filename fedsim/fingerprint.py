"""What of a scenario a run must keep to go on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.scenario import Scenario


def fingerprint(scenario: Scenario) -> str:
    """Of all that decides a run's numbers: not of where its data and its ledger lie, and on what it is computed."""
    settings = scenario.to_dict()
    for section, name in (("data", "path"), ("privacy", "ledger")):
        settings.get(section, {}).pop(name, None)
    kept = {name: value for name, value in settings.items() if name not in ("engine", "output")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
