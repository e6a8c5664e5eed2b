"""Devices that are there when real ones were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedsim.data.tabular import Table
from fedsim.devices.availability import Ids, Mask, Moment, Presence
from fedsim.devices.rates import Floats, Traits
from fedsim.devices.trace_file import numbers, read_trace
from fedsim.errors import BadInput
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True, kw_only=True)
class PresenceTrace:
    """A client is there from ``start`` to ``end`` (seconds) of its rows in a CSV file, again every ``period_seconds``.

    With a column ``client`` (numbers from 0) the rows are those of that client, and one without rows is never there;
    with a column ``device`` every client is one of the devices, drawn. The period left out is the last end.
    """

    kind: Literal["trace"] = "trace"
    path: str
    period_seconds: Positive | None = None
    follows_clock: ClassVar[bool] = True

    def presence(self, traits: Traits) -> Presence:
        """Those in one of whose intervals the moment lies; raises ``BadInput`` for a file without such intervals."""
        table = read_trace(f"{traits.key}.path", self.path)
        starts, ends = (numbers(table, column, f"{traits.key}.path") for column in ("start", "end"))
        period = self.period_seconds or float(ends.max())
        self._check(traits.key, table, (starts, ends, period))
        rows, owners = self._owners(table, traits)
        intervals = Intervals.of(rows, starts, ends)

        def there(clients: Ids, moment: Moment) -> Mask:
            return intervals.hold(owners[clients], moment.seconds % period)

        return there

    def _check(self, key: str, table: Table, intervals: tuple[Floats, Floats, float]) -> None:
        starts, ends, period = intervals
        bad = (starts < 0) | (ends <= starts) | (ends > period)
        if bad.any():
            row = int(bad.argmax())
            raise BadInput(
                f'{key}.path = "{self.path}": line {table.lines[row]} runs from {starts[row]:g} to {ends[row]:g}; '
                f"0 <= start < end <= period_seconds = {period:g} is needed."
            )

    def _owners(self, table: Table, traits: Traits) -> tuple[Ids, Ids]:
        """Whose each row is, and whose rows are each client's, as the same numbers."""
        if "client" in table.columns:
            named = numbers(table, "client", f"{traits.key}.path")
            if not ((named >= 0) & (named < traits.clients) & (named == named.astype(np.int64))).all():
                raise BadInput(
                    f'{traits.key}.path = "{self.path}": the column client must hold whole numbers from 0 to '
                    f"{traits.clients - 1}, as there are {traits.clients} clients."
                )
            return named.astype(np.int64), np.arange(traits.clients)
        names, first, rows = np.unique(
            np.array(table.column("device", f"{traits.key}.path")), return_index=True, return_inverse=True
        )
        rank = np.argsort(np.argsort(first))  # devices count in the order of the file, as the rows of a trace of rates
        return rank[rows], traits.devices(len(names))


@dataclass(frozen=True)
class Intervals:
    """Disjoint intervals ``starts[i] <= t < ends[i]`` of the owners ``owners[i]``, in their order."""

    owners: Ids
    starts: Floats
    ends: Floats

    @classmethod
    def of(cls, owners: Ids, starts: Floats, ends: Floats) -> Intervals:
        """From any intervals; those of one owner that overlap are joined."""
        order = np.lexsort((starts, owners))
        owners, starts, ends = owners[order], starts[order], ends[order]
        joined: list[tuple[int, float, float]] = []
        for owner, start, end in zip(owners.tolist(), starts.tolist(), ends.tolist(), strict=True):
            if joined and joined[-1][0] == owner and start <= joined[-1][2]:
                joined[-1] = (owner, joined[-1][1], max(end, joined[-1][2]))
            else:
                joined.append((owner, start, end))
        columns = zip(*joined, strict=True)
        return cls(*(np.array(column, kind) for column, kind in zip(columns, (int, float, float), strict=True)))

    def hold(self, owners: Ids, seconds: float) -> Mask:
        """Whether ``seconds`` lies in one of the intervals of each of ``owners``."""
        begun = np.zeros(int(max(self.owners.max(), owners.max(initial=0))) + 2, np.int64)
        np.add.at(begun, self.owners[self.starts <= seconds] + 1, 1)
        first = np.searchsorted(self.owners, owners)
        last = first + begun[owners + 1] - 1
        return np.asarray((begun[owners + 1] > 0) & (seconds < self.ends[last]))
