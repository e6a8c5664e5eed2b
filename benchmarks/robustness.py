"""What survives what: every aggregator against every attack by a fifth of the clients, as a table.

``python -m benchmarks.robustness --json FILE --markdown FILE``. A run that is in the JSON file already, with the same
settings, is not made again, so that a stopped command goes on where it was; after a change of the code, begin another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import fedsim
from fedsim.errors import FedsimError

BASE = """
rounds = 20
[data]
source = "digits"
[population]
clients = 20
[model]
name = "mlp"
hidden = [32]
[algorithm]
name = "fedavg"
local = { epochs = 2, batch_size = 16, learning_rate = 0.2 }
[evaluation]
every = 20
"""
# Mildly skewed labels; nobody has so few records that an update says nothing.
PARTITIONS = {
    "IID": "{ kind = 'iid' }",
    "Dirichlet(1)": "{ kind = 'dirichlet', alpha = 1.0, min_size = 20 }",
}
# Each is told how many attackers there are, where it asks.
DEFENCES = {
    "mean": "",
    "norm_bound": "bound = 0.5",
    "median": "",
    "trimmed_mean": "share = 0.2",
    "krum": "attackers = 4",
    "multi_krum": "attackers = 4",
    "bulyan": "attackers = 4",
    "geometric_median": "",
    "centred_clipping": "radius = 0.5",
    "fltrust": "root_records = 100",
}
ATTACKS = {
    "nobody": "",
    "label_flip": "kind = 'label_flip'",
    "label_flip 7 to 1": "kind = 'label_flip', source = 7, target = 1",
    "gaussian": "kind = 'gaussian'",
    "sign_flip x10": "kind = 'sign_flip', scale = 10.0",
    "alie (z = 0.16)": "kind = 'alie'",
    "alie z = 1.5": "kind = 'alie', z = 1.5",
    "inner_product 0.5": "kind = 'inner_product', epsilon = 0.5",
    "inner_product 10": "kind = 'inner_product', epsilon = 10.0",
    "backdoor": "kind = 'backdoor'",
    "model_replacement": "kind = 'model_replacement'",
    "free_rider": "kind = 'free_rider'",
    "nan": "kind = 'nan'",
}
# A cell is bold that lost so much accuracy to what the rule reaches when nobody attacks, or where an attack on single
# records succeeds so often.
LOST, SUCCEEDED = 0.05, 0.2
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    partition: str
    attack: str
    defence: str
    seed: int

    @property
    def overrides(self) -> list[str]:
        """What it sets."""
        settings = f", {DEFENCES[self.defence]}" if DEFENCES[self.defence] else ""
        return [
            f"seed={self.seed}",
            f"population.partition={PARTITIONS[self.partition]}",
            f"algorithm.aggregation={{ kind = '{self.defence}'{settings} }}",
            *([f"attack={{ fraction = 0.2, {ATTACKS[self.attack]} }}"] if ATTACKS[self.attack] else []),
        ]

    @property
    def key(self) -> str:
        """What its result is kept under."""
        settings = hashlib.sha256("\n".join([BASE, *self.overrides]).encode()).hexdigest()[:8]
        return f"{self.partition}, {self.attack}, {self.defence}, seed {self.seed} ({settings})"


def main() -> None:
    """Make the runs that are missing, and write the table."""
    options = _options()
    file = Path(options.json)
    results: Results = json.loads(file.read_text()) if file.exists() else {}
    cells = list(_cells(options))
    todo = [cell for cell in cells if cell.key not in results]
    for number, (cell, outcome) in enumerate(_outcomes(todo, options.jobs), 1):
        results[cell.key] = outcome
        _write(file, json.dumps(results, indent=1))
        print(f"{number}/{len(todo)} {cell.key}: {outcome}", file=sys.stderr)
    table = markdown(cells, results)
    print(table)
    if options.markdown:
        _write(Path(options.markdown), table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description="What survives what.")
    parser.add_argument("--json", metavar="FILE", required=True, help="the runs made so far; is added to")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there too")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="runs at once")
    for name, table in (("attacks", ATTACKS), ("defences", DEFENCES), ("partitions", PARTITIONS)):
        parser.add_argument(f"--{name}", nargs="+", choices=list(table), default=list(table), metavar="NAME")
    return parser.parse_args()


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for partition in options.partitions:
        for attack in options.attacks:
            for defence in options.defences:
                yield from (Cell(partition, attack, defence, seed) for seed in range(options.seeds))


def _outcomes(cells: list[Cell], jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_one_thread) as pool:
        waiting = {pool.submit(outcome, cell): cell for cell in cells}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def outcome(cell: Cell) -> dict[str, Any]:
    """Clean accuracy and, where the attack has one, its success; or why the run ended early."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            fedsim.run(fedsim.parse_scenario(BASE, "robustness", cell.overrides), Path(folder) / "run", _stop_at_last)
        except _Measured as done:
            return {key: done.row[key] for key in ("accuracy", "attack_success") if key in done.row}
        except FedsimError as error:
            if "diverged" not in str(error):
                raise
            return {"diverged": str(error)}
    raise AssertionError("the run ended before its last round")


class _Measured(Exception):
    """All that the table needs is there; writing the run's report would take most of the time."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__()
        self.row = row


def _stop_at_last(row: dict[str, Any]) -> None:
    if row["accuracy"] is not None:  # evaluated in the last round alone
        raise _Measured(row)


def markdown(cells: list[Cell], results: Results) -> str:
    """A table for each partition: a row for each attack, a column for each defence."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell.partition, cell.attack, cell.defence), []).append(results[cell.key])
    partitions, attacks, defences = (list(dict.fromkeys(key[at] for key in found)) for at in range(3))
    lines = []
    for partition in partitions:
        lines += [f"{partition}:", "", f"| | {' | '.join(defences)} |", f"|---|{'---|' * len(defences)}"]
        for attack in attacks:
            texts = [_text(found[partition, attack, name], found.get((partition, "nobody", name))) for name in defences]
            lines.append(f"| {attack} | {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines)


def _text(runs: list[dict[str, Any]], unharmed: list[dict[str, Any]] | None) -> str:
    """A cell in percent: the mean accuracy, and behind a slash the attack's mean success; bold where it was hurt."""
    if any("diverged" in run for run in runs):
        return "**diverged**"
    accuracy = mean(run["accuracy"] for run in runs)
    success = mean(run["attack_success"] for run in runs) if "attack_success" in runs[0] else None
    lost = unharmed is not None and mean(run["accuracy"] for run in unharmed) - accuracy > LOST
    text = f"{100 * accuracy:.0f}" + (f" / {100 * success:.0f}" if success is not None else "")
    return f"**{text}**" if lost or (success is not None and success > SUCCEEDED) else text


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.tmp")
    partial.write_text(text)
    partial.replace(file)


if __name__ == "__main__":
    main()
