"""Campaigns take longer than the tests: scripts/campaign NAME [ARGUMENTS]; scripts/campaign NAME --help tells more.

Ctrl-C stops one; the same command goes on, by what lies in campaigns/NAME.jsonl.

conformance [COUNT] [SEED]  every combination of two tables' entries; all of them, or COUNT
deploy [SECONDS] [SEED]     kills parts of a real deployment for so long
fuzz [SECONDS] [SEED]       damages every kind of file and message that fedsim reads, each kind for its share
hostile [COUNT] [SEED]      spoils every field of every message, then COUNT whole runs
kill [COUNT] [SEED]         stops runs at random moments, at least COUNT times and every kind of run, and resumes them
kill points [EVERY]         lets runs die at every EVERYth operation on disk, and resumes them
soak [ROUNDS] [SEED]        so many rounds, in which memory, time and files must stay flat
"""

from __future__ import annotations

import ast
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

MODULES = {name: f"tests.campaigns.{name}" for name in ("conformance", "fuzz", "hostile", "kill", "soak")}
MODULES["deploy"] = "tests.deployment.real"


def main() -> int:
    """Run the campaign that is named; returns 130 where it was stopped, 2 where there is none of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in MODULES:
        print(__doc__.strip(), file=sys.stdout if name == "--help" else sys.stderr)
        return 0 if name == "--help" else 2
    if "--help" in sys.argv:
        spec = find_spec(MODULES[name])
        assert spec is not None
        assert spec.origin is not None
        print(ast.get_docstring(ast.parse(Path(spec.origin).read_text())))
        return 0
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(MODULES[name], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        print(f"Stopped. Go on with: scripts/campaign {' '.join([name, *sys.argv[1:]])}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
