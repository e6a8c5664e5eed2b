"""Speeds or bandwidths that were measured on real devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsim.devices.rates import Floats, Traits
from fedsim.devices.trace_file import numbers, read_trace
from fedsim.errors import BadInput
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class RateTrace:
    """Each client gets the rate of a device drawn from a CSV file with one row per device, in the file's ``column``.

    A client has the same row in every file of as many rows, so its speed and its bandwidths stay together. Rates are in
    examples per second (compute) or bytes per second (upload, download).
    """

    kind: Literal["trace"] = "trace"
    path: str
    column: str

    def of_clients(self, traits: Traits) -> Floats:
        """The rate of each client's device ``[clients]``; raises ``BadInput`` for a file without such rates."""
        table = read_trace(f"{traits.key}.path", self.path)
        rates = numbers(table, self.column, f"{traits.key}.column")
        if not (rates > 0).all():
            row = int((rates <= 0).argmax())
            raise BadInput(
                f'{traits.key}.column = "{self.column}": line {table.lines[row]} of {table.file} has the rate '
                f"{rates[row]:g}; rates must be above 0."
            )
        return rates[traits.devices(len(rates))]
