"""The way of a block's reports to the server: compressed, with what was lost before, and restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.communication.base import Compression, Words
from fedsim.communication.none import Uncompressed
from fedsim.communication.table import COMPRESSIONS
from fedsim.settings import choice, section

if TYPE_CHECKING:
    CompressionChoice = Compression
else:
    CompressionChoice = choice("kind", COMPRESSIONS)

Reports = Float[Tensor, "clients report"]

# Fewer values than this behind the vectors are numbers of their own, such as a number of steps.
FEW = 16


@section
@dataclass(frozen=True, kw_only=True)
class Communication:
    """How clients' reports travel to the server; the model travels to them as it is.

    With ``error_feedback`` a client keeps what compression lost and adds it to what it sends next (Seide et al. 2014;
    Karimireddy et al. 2019, arXiv 1901.09847).
    """

    compression: CompressionChoice = Uncompressed()
    error_feedback: bool = False

    @property
    def compresses(self) -> bool:
        """Whether reports arrive as anything else than what they were."""
        return not isinstance(self.compression, Uncompressed)


@dataclass(frozen=True)
class Channel:
    """What clients send of reports of so many values, of a model with so many ``params``.

    Every whole vector in a report is compressed by itself: an algorithm's second vector has another scale than the
    update. A few values that are left over, such as a number of steps, are sent as they are.
    """

    settings: Communication
    params: int
    report: int

    @property
    def parts(self) -> list[tuple[Compression, int]]:
        """How each part of a report is sent, and how many values it has."""
        vectors, rest = divmod(self.report, self.params)
        parts: list[tuple[Compression, int]] = [(self.settings.compression, self.params)] * vectors
        last = Uncompressed() if rest < FEW else self.settings.compression
        return [*parts, (last, rest)] if rest else parts

    @property
    def bytes_up(self) -> int:
        """Bytes that a client sends in a round."""
        return sum(compression.bytes_of(size) for compression, size in self.parts)

    @property
    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says of it: the bytes of a client's report as sent, and as it would be uncompressed."""
        plain = Uncompressed().bytes_of(self.report)
        ratio = plain / self.bytes_up if plain else 1.0  # an algorithm may send nothing at all
        names = {"compression": self.settings.compression.kind, "error_feedback": self.settings.error_feedback}
        return {**names, "report_bytes": self.bytes_up, "uncompressed_bytes": plain, "ratio": ratio}

    @property
    def words(self) -> int:
        """Random words of 32 bits that a client uses in a round."""
        return sum(compression.words(size) for compression, size in self.parts)

    @property
    def state_size(self) -> int:
        """How many values a client keeps: all of what was lost, with error feedback."""
        return self.report if self.settings.error_feedback else 0

    def carried(
        self, reports: Reports, lost: Float[Tensor, "clients state"], words: Words
    ) -> tuple[Reports, Float[Tensor, "clients state"]]:
        """What the server makes of the reports, and what is lost on the way.

        A client whose report is not finite sends nothing that counts, and keeps what it had lost before.
        """
        wanted = reports + lost if self.settings.error_feedback else reports
        sizes, counts = zip(*((size, compression.words(size)) for compression, size in self.parts), strict=True)
        pieces = zip(self.parts, wanted.split(sizes, dim=1), words.split(counts, dim=1), strict=True)
        restored = torch.cat([compression.restored(part, own) for (compression, _), part, own in pieces], dim=1)
        if not self.settings.error_feedback:
            return restored, lost
        arrived = torch.isfinite(restored).all(dim=1, keepdim=True)
        return restored, torch.where(arrived, wanted - restored, lost)
