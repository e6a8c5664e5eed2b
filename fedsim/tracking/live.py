"""The sinks of a run that goes on: they get what the record got, and their failures are noted, not raised."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.extras import require
from fedsim.jsonable import jsonable
from fedsim.tracking import SINKS
from fedsim.tracking.base import Row, Sink, Tracked
from fedsim.tracking.settings import Output

if TYPE_CHECKING:
    from fedsim.scenario import Scenario


def check_sinks(scenario: Scenario) -> None:
    """Raise ``BadInput`` with the command that installs what a sink lacks."""
    for name in (scenario.output or Output()).sinks:
        require(f'output.sinks = "{name}"', SINKS[name].needs, "tracking")


@dataclass
class Live:
    """A run's sinks; they open with its first line, and then get all that the record holds already."""

    scenario: Scenario
    directory: Path
    sinks: dict[str, Sink] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    opened: bool = False

    @property
    def names(self) -> list[str]:
        """The sinks that the scenario names."""
        return list(dict.fromkeys((self.scenario.output or Output()).sinks))

    def row(self, row: Row) -> None:
        """Pass on the line that the record just got."""
        if not self.opened:
            self._open()  # with all lines of the record, this one among them
        else:
            self._each(lambda sink: sink.row(jsonable(row)))

    def close(self, summary: Row) -> list[dict[str, Any]]:
        """Pass on the summary; what became of every sink."""
        if not self.opened:
            self._open()
        self._each(lambda sink: sink.close(jsonable(summary)))
        return [
            {"sink": name, "directory": str(self._folder(name))}
            | ({"warning": self.failures[name]} if name in self.failures else {})
            for name in self.names
        ]

    def _open(self) -> None:
        from fedsim.comparing.labels import flat

        self.opened = True
        run_id = str(json.loads((self.directory / "environment.json").read_text())["run_id"])
        began = (self.directory / "environment.json").stat().st_mtime
        settings = flat(self.scenario.to_dict())
        lines = (self.directory / "rounds.jsonl").read_text().splitlines()
        for name in self.names:
            run = Tracked(self.directory.resolve().name, run_id, settings, self._folder(name), began)
            self._try(name, partial(self._begin, name, run))
        for row in map(json.loads, lines):
            self._each(methodcaller("row", row))

    def _begin(self, name: str, run: Tracked) -> None:
        self.sinks[name] = SINKS[name].open(run)

    def _folder(self, name: str) -> Path:
        directory = (self.scenario.output or Output()).directory
        return (Path(directory) if directory else self.directory / "tracking") / name

    def _each(self, action: Callable[[Sink], None]) -> None:
        for name, sink in list(self.sinks.items()):
            self._try(name, partial(action, sink))

    def _try(self, name: str, action: Callable[[], None]) -> None:
        """Whatever a sink raises is said once; it gets nothing more, and the run goes on."""
        try:
            action()
        except Exception as error:
            self.sinks.pop(name, None)
            self.failures[name] = f"{name} failed and got nothing more ({type(error).__name__}): {error}"
            logging.getLogger("fedsim").warning("%s. The run goes on; its record is whole.", self.failures[name])


def both(live: Live | None, on_round: Callable[[Row], None]) -> Callable[[Row], None]:
    """What tells the sinks, if there are any, and then whoever watches."""
    if live is None:
        return on_round

    def tell(row: Row) -> None:
        live.row(row)
        on_round(row)

    return tell
