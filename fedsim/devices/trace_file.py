"""Reading the CSV files that traces of devices come in."""

from __future__ import annotations

import numpy as np

from fedsim.data.csv_table import Format, read_csv
from fedsim.data.tabular import Table
from fedsim.devices.rates import Floats
from fedsim.errors import BadInput
from fedsim.paths import expanded


def read_trace(key: str, path: str) -> Table:
    """The rows of the CSV file that the setting ``key`` names; raises ``BadInput`` if it is empty or torn."""
    file = expanded(key, path)
    if not file.is_file():
        raise BadInput(f'{key} = "{path}": there is no such file. A relative path starts at the current folder.')
    table = read_csv(file, Format())
    if table.torn:
        raise BadInput(f'{key} = "{path}": line {table.torn[0]} has too few or too many fields.')
    if not table.lines:
        raise BadInput(f'{key} = "{path}": the file has no rows.')
    return table


def numbers(table: Table, column: str, key: str) -> Floats:
    """A column as finite numbers ``[rows]``; raises ``BadInput`` with the line of the first that is none."""
    texts = table.column(column, key)
    values = np.array([_number(text) for text in texts], np.float64)
    if not np.isfinite(values).all():
        row = int((~np.isfinite(values)).argmax())
        raise BadInput(
            f'{key} = "{column}": line {table.lines[row]} of {table.file} has "{texts[row]}", not a finite number.'
        )
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
