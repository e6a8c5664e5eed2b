"""Random streams: independent, reproducible, and none of them global."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import torch

import fedsim
from fedsim.seeding import Stream, generator, torch_generator


def test_a_stream_depends_on_all_of_its_coordinates_and_on_nothing_else():
    keys = [(seed, stream, r, c) for seed in (0, 1) for stream in Stream for r in (0, 1) for c in (0, 1)]
    draws = {key: generator(*key).integers(2**63) for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert all(generator(*key).integers(2**63) == draw for key, draw in draws.items())
    first = [int(torch.randint(2**62, (1,), generator=torch_generator(*key))) for key in keys]
    assert len(set(first)) == len(keys)


def test_neighbouring_streams_are_uncorrelated():
    """100 pairs of 10,000 normals: a correlation is N(0, 0.01); the largest exceeds 0.05 once in 20,000 runs."""
    rows = np.stack([generator(0, Stream.NOISE, 1, client).standard_normal(10_000) for client in range(101)])
    correlations = [np.corrcoef(rows[i], rows[i + 1])[0, 1] for i in range(100)]
    assert np.abs(correlations).max() < 0.05


# They run a stranger's model, watch the global generators meanwhile, and put them back.
WATCHERS = {"replay.py", "tracing.py"}


def test_no_file_of_fedsim_draws_from_pythons_global_generator():
    for file in Path(fedsim.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert "random" not in names or file.name in WATCHERS, file
            assert module != "random", file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
                assert node.attr in ("getstate", "setstate"), file
