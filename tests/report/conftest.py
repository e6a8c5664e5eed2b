"""The fixture that every test of the report starts from."""

from pathlib import Path
from typing import Any

import pytest

from .example_runs import MakeRun, variants, write_run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make the run directory of a variant."""

    def make(variant: str = "both", **changes: Any) -> Path:
        return write_run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", variants()[variant] | changes)

    return make
