"""Data of your own, by import path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from fedsim.data.arrays import Arrays, Declared, array_dataset
from fedsim.data.dataset import Dataset
from fedsim.errors import BadInput
from fedsim.imports import load_object
from fedsim.settings import section


@section
@dataclass(frozen=True)
class CustomData:
    """``source = "package.module:function"``; it is called with ``settings`` and returns a ``Dataset`` or four arrays.

    The arrays are x_train, y_train, x_test, y_test; whole-number labels are classes, others are numbers.
    """

    source: Annotated[str, Field(pattern=":")]
    settings: dict[str, Any] = field(default_factory=dict)

    def load(self, seed: int) -> Dataset:
        """What the user's function returns; raises ``BadInput`` if it fails or returns anything else."""
        make = load_object("data.source", self.source)
        where = f'data.source = "{self.source}"'
        try:
            result = make(**self.settings)
            if isinstance(result, tuple | list) and len(result) == 4:
                result = [np.asarray(part) for part in result]
        except Exception as error:  # whatever the user's function does
            reason = str(error).rstrip(".") or type(error).__name__
            raise BadInput(f"{where} could not be loaded: {reason}.") from error
        if isinstance(result, list):
            return array_dataset(where, Arrays(*result[:2]), Arrays(*result[2:]), Declared())
        if not isinstance(result, Dataset):
            raise BadInput(
                f"{where} returned a {type(result).__name__}, neither a fedsim.data.Dataset nor "
                "(x_train, y_train, x_test, y_test)."
            )
        return result
