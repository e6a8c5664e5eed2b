"""The table of what is fuzzed."""

from __future__ import annotations

from tests.fuzzing.files import FILES_TARGETS
from tests.fuzzing.runs import RUN_TARGETS
from tests.fuzzing.settings import SETTINGS_TARGETS
from tests.fuzzing.target import Target
from tests.fuzzing.wire import WIRE_TARGETS

TARGETS: dict[str, Target] = {**FILES_TARGETS, **SETTINGS_TARGETS, **WIRE_TARGETS, **RUN_TARGETS}
