"""The inside of a peer process: it waits for a line that asks for a round, and answers with a line."""

from __future__ import annotations

import json
import os
from typing import Any


class Steps:
    """Commands on what was standard input, answers on what was standard output; both are closed to everybody else."""

    def __init__(self) -> None:
        self._commands = os.fdopen(os.dup(0))
        self._answers = os.fdopen(os.dup(1), "w")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)  # whatever a library prints goes to the log

    def next(self) -> dict[str, Any] | None:
        """The next command, or ``None`` when there will be no more."""
        line = self._commands.readline()
        return json.loads(line) if line else None

    def answer(self, **values: Any) -> None:
        """Answer the last command."""
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()
