"""What the dotted keys of settings are called where there is little room."""

from collections.abc import Sequence


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Dotted keys by as many of their last parts as tell them apart: "privacy.example.clip_norm" -> "clip_norm"."""
    names = {}
    for key in keys:
        parts = key.split(".")
        tails = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        names[key] = next((tail for tail in tails if sum(_ends(other, tail) for other in keys) == 1), key)
    return names


def _ends(key: str, tail: str) -> bool:
    return key == tail or key.endswith(f".{tail}")
