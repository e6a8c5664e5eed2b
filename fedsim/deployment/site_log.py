"""What happened with sites in a run: who was dropped, refused or was rejected, when and why (``sites.jsonl``)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from fedsim.decoding import printable

What = Literal["accepted", "refused", "dropped", "rejected"]


class SiteLog:
    """Appends to ``sites.jsonl`` in a run's directory, and tells whoever watches; until attached, it keeps lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._file: Path | None = None
        self._lines: list[dict[str, Any]] = []

    def attach(self, folder: Path) -> None:
        """Write to the run's directory from here on, what was kept first."""
        kept, file = self._lines, folder / "sites.jsonl"
        self._lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self._file = file
        for line in kept:
            self._add(line)

    def note(self, round_: int, site: str, what: What, reason: str = "") -> None:
        """Note what happened with a site in a round; round 0 is before the first."""
        reason = printable(reason)  # in part a site's own words
        if what != "accepted":
            when = f"round {round_}" if round_ else "before the first round"
            self._say(f"site {site}, {when}: {what}: {reason}")
        self._add({"round": round_, "site": site, "what": what, "reason": reason})

    def counts(self, site: str) -> dict[str, int]:
        """How often a site was dropped, refused and rejected."""
        found = Counter(line["what"] for line in self._lines if line["site"] == site and line["round"])
        return {what: found[what] for what in ("dropped", "refused", "rejected")}

    def _add(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        if self._file is not None:
            with open(self._file, "a") as out:
                out.write(json.dumps(line) + "\n")
