"""The licences of all that fedsim installs, from the packages' own metadata.

``python -m tests.supply_chain.licences > docs/licences.md`` writes the list, where everything in requirements.lock is
installed.
"""

from __future__ import annotations

import re
from importlib import metadata

from tests.supply_chain.locked import locked

# Why a licence may be here. They bind whoever passes the packages on; fedsim passes on none, it names them.
PERMISSIVE = "asks for no more than its notice to be kept"
ALLOWED = {
    **dict.fromkeys(
        ("MIT", "MIT-0", "MIT-CMU", "ISC", "Zlib", "BSD", "0BSD", "BSD-2-Clause", "BSD-3-Clause"), PERMISSIVE
    ),
    **dict.fromkeys(("Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSL-1.0", "PSF-2.0"), PERMISSIVE),
    **dict.fromkeys(("CC0-1.0", "Public-Domain"), "asks for nothing"),
    "MPL-2.0": "asks that changes of its own files be published; fedsim uses the packages as they are",
}
# What packages write that have no licence expression (PEP 639).
WRITTEN = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Public Domain": "Public-Domain",
    "Python Software Foundation License": "PSF-2.0",
}
TOGETHER = re.compile(r" AND | OR |\((?!ISCL|MPL)|(?<!ISCL)(?<!2\.0)\)")
INTRODUCTION = """# Licences of what fedsim installs

From the packages' own metadata, all extras together (`python -m tests.supply_chain.licences`); none of them is part of
fedsim's own files. A package that is installed with a licence other than these turns a test red.
"""


def licence(package: str) -> list[str]:
    """The licences of an installed package; each must be allowed, whether they are a choice or a sum."""
    about = metadata.metadata(package)
    expression = about.get("License-Expression")
    classified = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    # A text of many lines is the licence itself, whose first line is its name.
    written = (about.get("License") or "").strip().splitlines()[:1]
    parts = [part for text in ([expression] if expression else classified or written) for part in TOGETHER.split(text)]
    return [WRITTEN.get(part.strip(), part.strip()) for part in parts if part.strip()]


def table() -> str:
    """The list as Markdown, every package of the lock."""
    rows = [f"| {name} | {pin.version} | {', '.join(licence(name))} |" for name, pin in sorted(locked().items())]
    reasons: dict[str, list[str]] = {}
    for name, reason in ALLOWED.items():
        reasons.setdefault(reason, []).append(name)
    listed = [f"* {', '.join(sorted(names))}: {reason}." for reason, names in reasons.items()]
    return "\n".join([INTRODUCTION, *listed, "", "| package | version | licence |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
