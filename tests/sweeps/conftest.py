"""Sweep files around the small scenario of the suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import EXAMPLE_PRIVACY, SMALL

# A public rate is the same for all clients, so that there is one noise to calibrate.
BASE = SMALL + EXAMPLE_PRIVACY.replace("noise_multiplier = 1.1", "target_epsilon = 3.0\nsampling_rate = 0.3")


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[..., Path]:
    """``sweep_file('seeds = [0]', 'rounds = [1, 2]')`` writes a sweep of the small scenario beside its base."""

    def write(search: str, space: str, base: str = BASE) -> Path:
        (tmp_path / "small.toml").write_text(base)
        file = tmp_path / "s.toml"
        file.write_text(f'base = "small.toml"\n[sweep]\n{search}\n[space]\n{space}\n')
        return file

    return write
