"""The report as Markdown (GitHub's flavour), with everything from the record escaped."""

import re
from collections.abc import Iterable

from fedsim.report.blocks import Block, document
from fedsim.report.inputs import RunRecord

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#&])")


def markdown(record: RunRecord) -> str:
    """The whole report."""
    return "\n\n".join(map(_text, document(record))) + "\n"


def _text(block: Block) -> str:
    if block.kind == "code":
        # A fence is longer than any run of backticks inside it.
        longest = max((len(run) for line in block.lines for run in re.findall("`+", line[0])), default=0)
        fence = "`" * max(3, longest + 1)
        return "\n".join([f"{fence}toml", *(line[0] for line in block.lines), fence])
    if block.kind == "table":
        head, *rows = block.lines
        return "\n".join(
            [_row(map(_escaped, head)), _row("---" for _ in head), *(_row(map(_escaped, r)) for r in rows)]
        )
    if block.kind == "bullets":
        return "\n".join(f"- {_escaped(line[0])}" for line in block.lines)
    return "#" * block.level * (block.kind == "heading") + " " * (block.kind == "heading") + _escaped(block.lines[0][0])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
