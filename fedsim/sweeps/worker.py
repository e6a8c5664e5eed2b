"""A process that makes runs one after the other, so that imports and compiled code are paid for once.

``python -m fedsim.sweeps.worker``: a JSON object a line on standard input asks for a run, those on standard output say
how it goes. It ends at once when its input closes, so that no run goes on without its sweep.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from fedsim.result import Result

Json = dict[str, Any]
Say = Callable[[Json], None]
PAUSE_SECONDS = 0.2


def main() -> None:
    """Answer until the input closes."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    asked: queue.Queue[Json] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, asked), daemon=True).start()

    def say(answer: Json) -> None:
        out.write(json.dumps(answer) + "\n")

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who wants it to stop ends it; its run goes on from its checkpoint
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    say({"ready": True})
    while True:
        say(_answer(asked.get(), say))


def _listen(source: TextIO, asked: queue.Queue[Json]) -> None:
    for line in source:
        asked.put(json.loads(line))
    os._exit(1)  # the sweep is gone; its runs go on from their checkpoints when it is resumed


def _answer(job: Json, say: Say) -> Json:
    """The end of a run: its summary, or the error in one paragraph."""
    from fedsim.errors import FedsimError

    try:
        return {"summary": make(job, _throttled(say)).summary}
    except FedsimError as error:
        return {"failed": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"Something unexpected went wrong ({type(error).__name__}): {error}."}


def make(job: Json, on_round: Callable[[Json], None]) -> Result:
    """Make the run in ``job["run"]``, or go on with it, or find it finished; pause it after ``job["until"]`` rounds."""
    import fedsim
    from fedsim.folds import discard_unbegun
    from fedsim.loading import parse_scenario
    from fedsim.result import Result

    path, until = Path(job["run"]), job["until"]
    discard_unbegun(path)
    if not path.exists():
        return fedsim.run(parse_scenario(job["scenario"], job["name"]), path, on_round, until=until)
    file = path / "summary.json"
    if file.exists() and (path / "report.html").exists():  # which is written last
        summary = json.loads(file.read_text())
        if summary["status"] != "interrupted" or summary["rounds"] == until:
            return Result(path, summary)
    return fedsim.resume(path, on_round, until=until)


def _throttled(say: Say) -> Callable[[Json], None]:
    """Tells of rounds, but not more often than anyone can see."""
    told = [0.0]

    def on_round(row: Json) -> None:
        if time.monotonic() - told[0] >= PAUSE_SECONDS:
            told[0] = time.monotonic()
            say({"round": row["round"]})

    return on_round


if __name__ == "__main__":
    main()
