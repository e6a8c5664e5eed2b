"""Everything with everything: ``scripts/campaign conformance [COUNT] [SEED] [PART]``.

At most COUNT cases in SEED's order (all by default: 15 minutes on a quiet core); PART is one of several that may run
side by side, as 1/2 and 2/2.

* ``pair``: two choices of different tables run and keep their promises, or are refused with the setting's path;
* ``privacy``: every model with every trainer and every unit;
* ``same``: every choice with every trainer gives the same numbers again, on other blocks, threads, nodes and orders;
* ``ray``: every algorithm and every aggregator on Ray's actors gives the numbers of one process.

A line of ``campaigns/conformance.jsonl`` is a case; those that are there are not run again. A case alone:
``python -m tests.campaigns.conformance --case 'pair engine.trainer=native attack.kind=nan'``.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fedsim.federation import build_federation
from fedsim.loading import parse_scenario
from tests.conformance.axes import TEXT, Choice, axes, choices, overrides_of
from tests.conformance.guard import untouched
from tests.conformance.playing import play
from tests.conformance.promises import quick, tried
from tests.conformance.same import check_same

FILE = Path("campaigns/conformance.jsonl")
ON_RAY = Choice("engine.kind", "ray", ('engine.kind="ray"', "engine.workers=2"))


def cases() -> Iterator[tuple[str, tuple[Choice, ...]]]:
    """The kind and the choices of each."""
    for one, two in itertools.combinations(axes().values(), 2):
        yield from (("pair", both) for both in itertools.product(one, two))
    three = (axes()[key] for key in ("model.name", "engine.trainer", "privacy"))
    yield from (("privacy", all_) for all_ in itertools.product(*three))
    yield from (("same", (choice, trainer)) for choice in choices() for trainer in axes()["engine.trainer"])
    for key in ("algorithm.name", "algorithm.aggregation.kind"):
        yield from (("ray", (choice,)) for choice in axes()[key])


def run_case(kind: str, chosen: tuple[Choice, ...]) -> str | None:
    """Raises what is wrong; or why it is refused."""
    secure = any(choice.name == "secure" for choice in chosen)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder, quick():
        if kind == "ray":
            return _on_ray(Path(folder), chosen)
        with untouched(secure):
            return check_same(Path(folder), *chosen) if kind == "same" else tried(Path(folder), *chosen)


def _on_ray(folder: Path, chosen: tuple[Choice, ...]) -> str | None:
    from fedsim.engines import opened

    overrides = [*overrides_of(*chosen), "rounds=2"]
    expected = play(build_federation(parse_scenario(TEXT, "here", overrides)), folder / "here")
    there = build_federation(parse_scenario(TEXT, "there", [*overrides, *overrides_of(ON_RAY)]))
    with opened(there) as (grid, federation):
        found = play(federation, folder / "there", lambda _: grid)
    assert found.distance(expected) < 1e-6
    return None


def _line(name: str, run: Callable[[], str | None]) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        refused = run()
        outcome = {"outcome": "ran" if refused is None else "refused", **({"why": refused} if refused else {})}
    except Exception:
        outcome = {"outcome": "FAILED", "why": traceback.format_exc()}
    return {"case": name, **outcome, "seconds": round(time.perf_counter() - began, 3)}


def main(arguments: list[str]) -> int:
    """The campaign, or one case."""
    torch.set_num_threads(1)
    everything = {f"{kind} {' '.join(map(str, chosen))}": (kind, chosen) for kind, chosen in cases()}
    if arguments[:1] == ["--case"]:
        kind, chosen = everything[arguments[1]]
        print(run_case(kind, chosen) or "it ran")
        return 0
    FILE.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    left = sorted(everything.keys() - {line["case"] for line in known})
    count, seed, part = [*arguments, *("1000000", "0", "1/1")[len(arguments) :]]
    own, parts = map(int, part.split("/"))
    random.Random(int(seed)).shuffle(left)
    left = [name for name in left[: int(count)] if zlib.crc32(name.encode()) % parts == own - 1]
    began = time.perf_counter()
    with FILE.open("a") as file:
        for number, name in enumerate(left, 1):
            line = _line(name, lambda name=name: run_case(*everything[name]))  # type: ignore[misc]
            file.write(json.dumps(line) + "\n")
            file.flush()
            known.append(line)
            if line["outcome"] == "FAILED":
                print(f"\nFAILED: python -m tests.campaigns.conformance --case '{name}'\n{line['why']}", flush=True)
            if number % 50 == 0 or number == len(left):
                print(f"\r{number} of {len(left)}, {time.perf_counter() - began:.0f} s", end="", flush=True)
    counts = Counter(line["outcome"] for line in known)
    told = ", ".join(f"{counts[name]} {name.lower()}" for name in ("ran", "refused", "FAILED"))
    print(f"\nconformance: {len(known)} of {len(everything)} cases: {told}; {time.perf_counter() - began:.0f} s")
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
