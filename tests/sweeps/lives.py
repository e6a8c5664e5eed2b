"""A program that runs a sweep again and again, each time stopped by a signal at random, until it is done.

``python -m tests.sweeps.lives SWEEP OUT SEED SIGNAL...``. fedsim is imported once and each life is a fork of it, which
keeps the lives short. It prints how each ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import fedsim.running
import fedsim.sweeps.running


def size(out: Path) -> int:
    """How much of the sweep's runs there is on disk."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        total = sum(file.stat().st_size for file in out.glob("runs/*/rounds.jsonl"))
    return total


def live(sweep: str, out: Path) -> int:
    """Begin the sweep or go on with it in a fork; returns its process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = fedsim.sweep(sweep, out, resume=True).exit_code
    except fedsim.FedsimError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def main() -> None:
    """Stop a life once it has got on, at a random moment within half a second; let the last one finish."""
    sweep, out, rng = sys.argv[1], Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    for number in map(int, sys.argv[4:]):
        child, before = live(sweep, out), size(out)
        while size(out) <= before:
            if os.waitpid(child, os.WNOHANG)[0]:
                sys.exit("it ended before it could be stopped")
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.5))
        os.kill(child, number)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(live(sweep, out), 0)[1]), flush=True)


if __name__ == "__main__":
    assert signal.SIGKILL == 9
    main()
