"""What a scenario's population looks like, before anything is trained: ``fedsim describe``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fedsim.devices.describing import describe_devices, devices_text
from fedsim.holdings import Holdings, client_names, load_holdings
from fedsim.population.statistics import label_counts, label_skew, size_statistics
from fedsim.scenario import Scenario

SHADES = "·░▒▓█"
SHOWN_ROWS, SHOWN_COLUMNS = 20, 40
EACH = 20  # so many clients are listed one by one; of more there is a histogram
BAR = 40


def describe(scenario: Scenario) -> dict[str, Any]:
    """Sizes, label skew, notes on the data and what is held out, as plain values; raises ``BadInput``.

    Sizes and labels are those of all records that the clients who train hold, what they hold back for testing included.
    """
    holdings = load_holdings(scenario)
    data, whole = holdings.data, holdings.whole
    labels = label_counts(data, whole)
    if labels is not None:
        labels["clients"] = client_names(scenario, holdings, len(labels["clients"]))
    names = client_names(scenario, holdings, min(len(whole), EACH))
    return {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "source": scenario.data.source,
        "partition": scenario.population.partition.kind,
        **size_statistics(whole),
        "each": dict(zip(map(str, names), whole.sizes.tolist(), strict=True)) if len(whole) <= EACH else None,
        "labels": labels,
        "label_kind": data.kind,
        "label_skew": None if data.kind == "tokens" else label_skew(data.train.strata, whole),
        "held_out": _held_out(scenario, holdings),
        "devices": describe_devices(scenario, holdings.population.sizes),
        "notes": list(holdings.notes),
    }


def _held_out(scenario: Scenario, holdings: Holdings) -> dict[str, Any]:
    held_back, unseen = holdings.held_back, holdings.unseen
    found: dict[str, Any] = {
        "training_records": len(holdings.population.indices),
        "test_records": len(holdings.data.test),
        "test": "source" if held_back is None else "per_client",
    }
    if held_back is not None:
        found["tested_clients"] = int((held_back.sizes > 0).sum())
    if len(scenario.runs) > 1:
        found["folds"] = len(scenario.runs)
    if unseen is not None:
        found |= {"unseen_clients": len(unseen), "unseen_records": len(unseen.indices)}
    return found


def as_text(description: dict[str, Any]) -> str:
    """The description for a person at a terminal."""
    sizes = description["sizes"]
    quartiles = ("min", "first_quartile", "median", "third_quartile", "max")
    lines = [
        f"{description['scenario']}: {description['clients']} clients hold {description['records']} records "
        f"({description['source']}, partition {description['partition']})",
        "",
        "records of a client: " + ", ".join(f"{name.replace('_', ' ')} {sizes[name]:g}" for name in quartiles),
        *(_sizes(description["each"]) if description["each"] else _bars(sizes["edges"], sizes["counts"])),
    ]
    if description["label_skew"] is not None:
        skew = description["label_skew"]
        held = "classes" if description["label_kind"] == "classes" else "tenths of the labels, from least to greatest,"
        lines += [
            "",
            f"{held} that a client holds: {skew['mean_classes']:.2f} on average",
            "distance of a client's labels from everybody's (total variation, 0 to 1): "
            f"{skew['mean_total_variation']:.3f} on average",
        ]
    if description["labels"] is not None:
        lines += ["", *_heat_table(description["labels"])]
    lines += ["", *(f"{name.replace('_', ' ')}: {value}" for name, value in description["held_out"].items())]
    if description["devices"] is not None:
        lines += ["", *devices_text(description["devices"])]
    return "\n".join(lines + [f"note: {note}" for note in description["notes"]])


def _sizes(each: dict[str, int]) -> list[str]:
    """A line for each client: its name and its number of records."""
    width = max(map(len, each))
    return [f"  {name:>{width}}  {'█' * -(-BAR * size // max(each.values()))} {size}" for name, size in each.items()]


def _bars(edges: list[float], counts: list[int]) -> list[str]:
    """A histogram of whole numbers, a line each bin."""
    names = [
        f"{low + 0.5:g}" if high - low == 1 else f"{low + 0.5:g} to {high - 0.5:g}" for low, high in pairwise(edges)
    ]
    width, most = max(map(len, names)), max(counts)
    return [
        f"  {name:>{width}}  {'█' * -(-BAR * count // most)} {count}" for name, count in zip(names, counts, strict=True)
    ]


def _heat_table(labels: dict[str, Any]) -> list[str]:
    """A line for each of the first clients and a character for each class: the darker, the larger its share."""
    names, rows = labels["classes"], labels["counts"][:SHOWN_ROWS]
    clients = [str(client)[:16] for client in labels["clients"][:SHOWN_ROWS]]
    width = max(map(len, clients))
    more = f" (the first {SHOWN_COLUMNS} of {len(names)})" if len(names) > SHOWN_COLUMNS else ""
    title = f"classes across, {names[0]} to {names[min(len(names), SHOWN_COLUMNS) - 1]}{more}; "
    lines = [title + "a client's share of each: · none, ░ to a quarter, ▒ to a half, ▓ to three quarters, █ more"]
    for client, row in zip(clients, rows, strict=True):
        shades = "".join(SHADES[-(-4 * count // max(1, sum(row)))] for count in row[:SHOWN_COLUMNS])
        lines.append(f"  client {client:>{width}}  {shades}")
    return lines
