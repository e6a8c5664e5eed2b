"""Objects named in a scenario by import path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput


def load_object(key: str, path: str) -> Any:
    """The object at ``"package.module:name"``, looked up from the current folder too; raises ``BadInput``."""
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise BadInput(f'{key} = "{path}" cannot be imported: {error}.') from error
