"""Damage, drawn from a generator: to bytes, to text, and to tables as a scenario file or a JSON document holds them.

The generator is Python's ``Random``, so that the campaign draws from a seed and a property test lets Hypothesis draw.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Path = tuple[str | int, ...]

# What breaks readers of numbers, names and tables.
NUMBERS = (0, -1, 1, 2, 3, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1)
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.5, 1e-5, 5e-324, 1e-310, 1e38, 3.5e38, 1e308, -1e308, math.nan, math.inf, -math.inf)
TEXTS = (
    "",
    " ",
    "inf",
    "nan",
    "none",
    "all",
    "auto",
    "mean",
    "fixed",
    "poisson",
    "a.b",
    "../../x",
    "/dev/null",
    "~",
    "~nobody-has-this-name/x",
    "a\0b",
    "\x1b[31m",
    "é\u202e\U0001f600",
    "\ud7ff\uffff",
    "package.module:Thing",
    "os:system",
    ":",
    "x" * 5000,
    "%s{0}{x}",
    "<script>alert(1)</script>",
)
EXTREMES: tuple[Any, ...] = (
    *NUMBERS,
    *FLOATS,
    10**30,
    10**400,
    *TEXTS,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    {"": 1},
    [0, 0],
)
NUMBER_TEXTS = (b"0", b"-1", b"1e999", b"nan", b"inf", b"1" * 30, b"9" * 5000, b"0x10", b"1_000", b"", b" ", b"1.5")


def mutate_tree(random: Random, tree: Any, others: Sequence[Any] = ()) -> Any:
    """A copy of nested tables and lists with one to four faults; ``others`` are whole ones to graft from."""
    tree = copy.deepcopy(tree)
    for _ in range(random.randint(1, 4)):
        places = [place for place in _places(tree) if place]
        if not places:
            return random.choice(EXTREMES)
        fault = random.choice(FAULTS)
        tree = fault(random, tree, random.choice(places), others)
    return tree


def _places(tree: Any, at: Path = ()) -> Iterator[Path]:
    yield at
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _places(value, (*at, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree[:20]):
            yield from _places(value, (*at, number))


def at(tree: Any, place: Path) -> Any:
    """The value at a place."""
    for step in place:
        tree = tree[step]
    return tree


def _drop(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    del at(tree, place[:-1])[place[-1]]
    return tree


def _extreme(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    at(tree, place[:-1])[place[-1]] = copy.deepcopy(random.choice(EXTREMES))
    return tree


def _nudge(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    """Another value of the same type."""
    value = at(tree, place)
    if isinstance(value, bool):
        value = not value
    elif isinstance(value, int):
        value = random.choice([value + 1, value - 1, -value, value * 1000, *NUMBERS])
    elif isinstance(value, float):
        value = random.choice([value * 10, value / 10, -value, value * 1e6, 1 - value, *FLOATS])
    elif isinstance(value, str):
        value = misspelt(random, value)
    elif isinstance(value, list):
        value = random.choice([value[:-1], value + value, value[::-1], value * 50])
    at(tree, place[:-1])[place[-1]] = value
    return tree


def _rename(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    table, key = at(tree, place[:-1]), place[-1]
    if isinstance(table, dict):
        table[misspelt(random, str(key))] = table.pop(key)
    return tree


def _add(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    value = at(tree, place)
    new = copy.deepcopy(random.choice(EXTREMES))
    if isinstance(value, dict):
        value[random.choice(["name", "kind", "source", "x", "", "options", "a.b", "rate", *TEXTS])] = new
    elif isinstance(value, list):
        value.insert(random.randint(0, len(value)), new)
    return tree


def _graft(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    """What stands elsewhere, in this tree or another: a wrong table, swapped sections, another entry's settings."""
    source = random.choice([tree, *others])
    at(tree, place[:-1])[place[-1]] = copy.deepcopy(at(source, random.choice(list(_places(source)))))
    return tree


def _same_place(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    """What stands at the same place of another tree: most often valid by itself."""
    for other in random.sample(list(others), len(others)):
        try:
            found = at(other, place)
        except (KeyError, IndexError, TypeError):
            continue
        at(tree, place[:-1])[place[-1]] = copy.deepcopy(found)
        return tree
    return tree


def _swap(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    table, key = at(tree, place[:-1]), place[-1]
    twin = random.choice(list(table) if isinstance(table, dict) else range(len(table)))
    table[key], table[twin] = table[twin], table[key]
    return tree


def _wrap(random: Random, tree: Any, place: Path, others: Sequence[Any]) -> Any:
    value = at(tree, place)
    for _ in range(random.choice([1, 1, 1, 5, 80])):
        value = random.choice([[value], {str(place[-1]): value}])
    at(tree, place[:-1])[place[-1]] = value
    return tree


Fault = Callable[[Random, Any, Path, Sequence[Any]], Any]
FAULTS: tuple[Fault, ...] = (
    _drop,
    _extreme,
    _nudge,
    _nudge,
    _rename,
    _add,
    _graft,
    _same_place,
    _same_place,
    _swap,
    _wrap,
)


def misspelt(random: Random, text: str) -> str:
    """A text with a character changed, dropped, doubled or put in."""
    at_ = random.randint(0, len(text))
    put = random.choice(["", "x", text[at_ : at_ + 1] * 2, "_", "é", " ", "\0", "A"])
    return text[:at_] + put + text[at_ + random.randint(0, 1) :]


# Bytes


def mutate_bytes(random: Random, data: bytes, words: Sequence[bytes] = (), others: Sequence[bytes] = ()) -> bytes:
    """A copy of ``data`` with one to four faults; ``words`` are what its format is made of."""
    for _ in range(random.choice([1, 1, 2, 3, 4])):
        data = random.choice(BYTE_FAULTS)(random, data, words, others)[: 2**18]
    return data


def _span(random: Random, data: bytes, most: int = 16) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.randint(0, most))


def _flip(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    where = random.randrange(len(data))
    return data[:where] + bytes([data[where] ^ (1 << random.randrange(8))]) + data[where + 1 :]


def _cut(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, end = _span(random, data, random.choice([4, 64, max(1, len(data))]))
    return data[:start] + data[end:]


def _truncate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    return data[: random.randint(0, len(data))]


def _repeat(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, end = _span(random, data, random.choice([4, 64, 512]))
    return data[:end] + data[start:end] * random.choice([1, 1, 2, 50, 3000]) + data[end:]


def _noise(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, end = _span(random, data, 8)
    return data[:start] + random.randbytes(random.randint(0, 8)) + data[end:]


def _word(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, end = _span(random, data, random.choice([0, 8]))
    return data[:start] + random.choice([*words, b"\0", b"\n", b"\xff\xfe", b'"']) + data[end:]


def _integer(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A length or an offset that is another one."""
    width = random.choice([1, 2, 4, 8])
    start = random.randint(0, max(0, len(data) - width))
    value = random.choice([*NUMBERS, len(data), len(data) - 1, random.getrandbits(8 * width)]) % 2 ** (8 * width)
    order = "little" if random.randint(0, 1) else "big"
    return data[:start] + value.to_bytes(width, order) + data[start + width :]  # type: ignore[arg-type]


def _digits(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A number in text that is another one."""
    found = list(re.finditer(rb"-?\d[\d.eE+-]*", data[: 2**16]))
    if not found:
        return data
    one = random.choice(found)
    put = random.choice([*NUMBER_TEXTS, *(str(number).encode() for number in NUMBERS)])
    return data[: one.start()] + put + data[one.end() :]


def _splice(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    other = random.choice([data, *others])
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _line(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A line twice, gone, or in another place."""
    lines = data.split(b"\n")
    line = lines.pop(random.randrange(len(lines))) if random.randint(0, 1) else random.choice(lines)
    if random.randint(0, 2):
        lines.insert(random.randint(0, len(lines)), line)
    return b"\n".join(lines)


ByteFault = Callable[[Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]
BYTE_FAULTS: tuple[ByteFault, ...] = (
    _flip,
    _cut,
    _truncate,
    _repeat,
    _noise,
    _word,
    _word,
    _integer,
    _digits,
    _splice,
    _line,
)
