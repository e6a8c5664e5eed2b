"""Opacus' PRV accountant without the rest of Opacus, which imports torch and takes seconds."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

_ALIAS = "_fedsim_opacus_accountants"


class _Base:
    """Stands for Opacus' ``IAccountant``, whose module imports the optimizers: an accountant with a history."""

    def __init__(self) -> None:
        self.history: list[tuple[float, float, int]] = []


@cache
def prv_accountant() -> Any:
    """Opacus' class ``PRVAccountant``; its files run as they are, in a package of another name.

    Where Opacus has been imported anyway, or its files lie elsewhere than they did, it is imported as usual.
    """
    if "opacus.accountants" not in sys.modules:
        try:
            return _alone().PRVAccountant
        except (ImportError, AttributeError):
            pass
    from opacus.accountants import PRVAccountant

    return PRVAccountant


def _alone() -> ModuleType:
    """The module ``opacus.accountants.prv`` in a package whose ``__init__`` is never run."""
    spec = importlib.util.find_spec("opacus")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("opacus is not a package on disk")
    package, base = ModuleType(_ALIAS), ModuleType(f"{_ALIAS}.accountant")
    package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "accountants")]
    vars(base)["IAccountant"] = _Base
    sys.modules.update({_ALIAS: package, base.__name__: base})
    return importlib.import_module(f"{_ALIAS}.prv")
