"""Numbers as a reader who is no engineer can take them in."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

NOT_RECORDED = "not recorded"


def number(value: object) -> float | None:
    """The JSON number `value` as a float, where infinity is the string "inf"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    return math.inf if value == "inf" else None


def finite(value: object) -> float | None:
    """Like `number`, but None for infinity and NaN too: what a figure can draw."""
    result = number(value)
    return result if result is not None and math.isfinite(result) else None


def epsilon(value: object) -> str:
    """Epsilon with two decimals (or two digits where it is small), rounded *up*: a report must not understate it."""
    size = number(value)
    if size is None or math.isnan(size):
        return NOT_RECORDED
    if math.isinf(size):
        return "∞"
    if size <= 0:
        return "0"
    digits = 2 if size >= 0.1 else 1 - math.floor(math.log10(size))
    scale = 10.0**digits
    return f"{math.ceil(size * scale - 1e-6) / scale:,.{digits}f}"


def probability(value: object) -> str:
    """A small probability written out: 0.00001, not 1e-05."""
    size = finite(value)
    if size is None:
        return NOT_RECORDED
    return format(Decimal(f"{size:.3g}"), "f") if size >= 1e-7 else f"{size:.3g}"


def small(value: object) -> str:
    """A small probability, with the "1 in so many" that it stands for: 0.0001 (1 in 10,000)."""
    size = finite(value)
    if size is None or not 0 < size < 0.1:
        return probability(value)
    return f"{probability(value)} (1 in {Decimal(f'{1 / size:.3g}'):,f})"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def percent_up(share: float) -> str:
    """A probability bound in percent, rounded up, in as many digits as tell it from 100%."""
    if share > 1 - 1e-8:
        return "100%" if share == 1 else "practically 100%"
    digits = max(1, -math.floor(math.log10(1 - share)) - 2)
    return f"{math.ceil(share * 10 ** (digits + 2) - 1e-6) / 10**digits:.{digits}f}%"


def count(value: object) -> str:
    size = finite(value)
    if size is None:
        return NOT_RECORDED
    return f"{size:,.0f}" if size == int(size) else f"{size:,.1f}"


def plural(amount: object, noun: str) -> str:
    """The amount with its noun: "1 client", "1,437 records"."""
    if finite(amount) is None:
        return f"an unrecorded number of {noun}s"
    return f"{count(amount)} {noun}" if amount == 1 else f"{count(amount)} {noun}s"


def quantity(value: float) -> str:
    """A measured value in four digits."""
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"


def rounded(value: float) -> str:
    """Two significant digits, written out: 15,000."""
    return f"{Decimal(f'{value:.2g}'):,f}"


def duration(seconds: object) -> str:
    length = finite(seconds)
    if length is None:
        return NOT_RECORDED
    if length < 1:
        return f"{1000 * length:.3g} ms"
    if length < 120:
        return f"{length:.3g} s"
    minutes, rest = divmod(round(length), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def byte_scale(largest: float) -> tuple[float, str]:
    """The divisor and the name of the unit in which `largest` bytes are best read."""
    for exponent, name in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if largest >= 10**exponent:
            return 10.0**exponent, name
    return 1.0, "bytes"


def size(amount: object) -> str:
    """An amount of bytes in decimal units: 1,500,000 -> 1.5 MB."""
    total = finite(amount)
    if total is None:
        return NOT_RECORDED
    divisor, unit = byte_scale(total)
    return f"{total / divisor:.3g} {unit}" if divisor > 1 else f"{total:,.0f} bytes"


def spread(value: object) -> str:
    """A number, or the range of a `{"min", "max"}` pair, for the prose: "between 0.1 and 0.3"."""
    if not isinstance(value, Mapping):
        return _brief(value)
    low, high = value.get("min"), value.get("max")
    return _brief(low) if low == high else f"between {_brief(low)} and {_brief(high)}"


def _brief(value: object) -> str:
    """Four digits are enough in a sentence; the table has them all. Whole numbers stay whole."""
    return exact(float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value)


def exact(value: object) -> str:
    """Any recorded value, in full and unrounded; 0.19099999999999998 is how a computer writes 0.191."""
    if value is None:
        return NOT_RECORDED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == "inf" or value == math.inf:
        return "∞ (infinite)"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        text = _without_noise(value)
        return format(Decimal(text), "f") if 1e-9 < abs(value) < 1e-3 else text
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {exact(part)}" for name, part in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [exact(part) for part in value]
        return (" " if all(part.endswith(".") for part in parts) else "; ").join(parts) or "none"
    return str(value)


def _without_noise(value: float) -> str:
    """All digits, unless the last of them are only what a sum or product of short decimals leaves behind."""
    shown, near = repr(value), repr(float(f"{value:.14g}"))
    return near if len(near) < len(shown) - 5 else shown


def listing(parts: Sequence[str]) -> str:
    """Parts as one phrase: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""
