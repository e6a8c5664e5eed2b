"""Directories of runs and sweeps in which a file is damaged or gone: what reads them says so, or does without."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import fedsim
import fedsim.running
from fedsim.cli import app
from tests.fuzzing.files import tensors_mutate
from tests.fuzzing.mutation import mutate_bytes
from tests.fuzzing.settings import toml_mutate
from tests.fuzzing.target import Target, json_mutate

Files = dict[str, bytes]

SCENARIO = """
rounds = 3
[data]
source = "synthetic"
problem = { kind = "clusters", examples = 100 }
[population]
clients = 5
[model]
name = "logistic"
[algorithm]
name = "scaffold"
local = { steps = 2 }
[algorithm.server]
optimizer = "adam"
[privacy.example]
clip_norm = 1.0
noise_multiplier = 2.0
sampling_rate = 0.3
delta = 1e-5
[privacy.client]
clip_norm = 1.0
noise_multiplier = 2.0
delta = 1e-2
"""
SWEEP = """
[base]
rounds = 2
data = { source = "synthetic", problem = { kind = "clusters", examples = 100 } }
population = { clients = 5 }
algorithm = { name = "fedavg" }
model = { name = "logistic" }
[sweep]
seeds = [0, 1]
parallel = 1
[space]
"privacy.client" = [{ clip_norm = 1.0, noise_multiplier = 2.0, delta = 1e-2 }]
"algorithm.local.learning_rate" = [0.01, 0.1]
"""
PAUSED = """
import fedsim, sys
fedsim.run(fedsim.load_scenario(sys.argv[1]), sys.argv[2], until=2)
"""


@cache
def bases() -> dict[str, Files]:
    """The files of a finished run, of one that was paused, and of a sweep."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "x.toml").write_text(SCENARIO)
        (folder / "s.toml").write_text(SWEEP)
        cli = [sys.executable, "-m", "fedsim.cli"]
        commands = {
            "run": [*cli, "run", "x.toml", "--out", "run", "--quiet"],
            "paused": [sys.executable, "-c", PAUSED, "x.toml", "paused"],
            "sweep": [*cli, "sweep", "s.toml", "--out", "sweep", "--quiet"],
        }
        path = os.pathsep.join([str(Path(fedsim.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        for command in commands.values():
            subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True)
        return {name: _files(folder / name) for name in commands}


def _files(folder: Path) -> Files:
    kept = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix not in (".html", ".part")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in kept}


def _seeds() -> list[bytes]:
    """``base/file``, a line end, and what is in the file; of a sweep's runs those of the first."""
    every = [(base, name, content) for base, files in bases().items() for name, content in files.items()]
    chosen = [each for each in every if not each[1].startswith("runs/") or each[1].endswith("summary.json")]
    return [f"{base}/{name}\n".encode() + content for base, name, content in chosen if name != ".lock"]


def _mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """Damage fit for the kind of file; or no file at all."""
    name, _, content = data.partition(b"\n")
    if random.random() < 0.03:
        return b"-" + name + b"\n"
    suffix = name.rpartition(b".")[2]
    if suffix == b"jsonl" and random.random() < 0.7:
        lines = content.splitlines() or [b"{}"]
        which = random.randrange(len(lines))
        lines[which] = json_mutate(random, lines[which], words, lines).replace(b"\n", b" ")
        return name + b"\n" + b"\n".join(lines) + b"\n"
    special = {b"json": json_mutate, b"toml": toml_mutate, b"safetensors": tensors_mutate}
    return name + b"\n" + special.get(suffix, mutate_bytes)(random, content, words, [content])


def _run(data: bytes, folder: Path) -> None:
    head, _, content = data.partition(b"\n")
    base, _, name = head.decode("utf-8", "replace").lstrip("-").partition("/")
    if base not in bases() or name not in bases()[base]:
        return
    run = folder / base
    for other, old in bases()[base].items():
        (run / other).parent.mkdir(parents=True, exist_ok=True)
        (run / other).write_bytes(old)
    (run / name).unlink()
    if not head.startswith(b"-"):
        (run / name).write_bytes(content)
    fedsim.running.build_report = lambda path: path  # what resume would draw; the report has commands of its own
    draw, commands = hashlib.sha256(data).digest()[0], _commands(base, name, folder)
    call(commands[draw % len(commands)])


def call(arguments: list[str]) -> None:
    """The command line, without what it prints; exits that are errors of usage pass like bad input."""
    with contextlib.suppress(SystemExit):
        app(arguments, standalone_mode=False)


def _commands(base: str, name: str, folder: Path) -> list[list[str]]:
    """What reads this file."""
    run = str(folder / base)
    compare, plan, resume = ["compare", run], ["plan", "--ledger", f"{run}/ledger.db"], ["resume", run, "--quiet"]
    reports = [["report", run], ["report", run, "--format", "md"]]
    if base == "sweep":
        return [*[compare, *reports] * 6, ["sweep", run, "--resume", "--quiet"]]
    if name.endswith(".db"):
        return [plan, resume]
    if base == "paused" or name.endswith((".safetensors", ".bin", ".f32")):
        return [resume]
    exports = [["export", run, "--to", kind, "--out", str(folder / kind)] for kind in ("csv", "parquet")]
    return [compare, resume, *exports, *reports]


RUN_TARGETS = {
    "runs": Target(_seeds, _run, _mutate, (b"inf", b"nan", b"null", b"SQLite format 3\0", b"example", b"{}"), batch=8)
}
