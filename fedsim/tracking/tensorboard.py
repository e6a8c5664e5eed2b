"""TensorBoard event files, written without TensorFlow; look at them with ``tensorboard --logdir``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from fedsim.tracking.base import Row, Tracked, scalars, seconds_of, statement


@dataclass
class TensorBoard:
    """Every number of a round as a scalar of that step, in single precision as TensorBoard has it."""

    writer: Any
    seconds: float  # since 1970, at the last round's end
    step: int = 0
    needs: ClassVar[tuple[str, ...]] = ("tensorboard",)

    @classmethod
    def open(cls, run: Tracked) -> Self:
        """Begin with the scenario as text."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run.folder / run.own
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(parents=True)
        sink = cls(EventFileWriter(str(folder)), run.began)
        sink._write(_text("scenario", "\n".join(f"{key} = {value}" for key, value in run.settings.items())))
        return sink

    def row(self, row: Row) -> None:
        """Write the round's numbers, and push them to the file."""
        self.step, self.seconds = int(row["round"]), self.seconds + seconds_of(row)
        self._write([{"tag": name, "simple_value": value} for name, value in scalars(row)])
        self.writer.flush()

    def close(self, summary: Row) -> None:
        """Write the privacy statement as text."""
        self._write(_text("privacy", statement(summary)))
        self.writer.close()

    def _write(self, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self.writer.add_event(Event(wall_time=self.seconds, step=self.step, summary=summary))


def _text(tag: str, text: str) -> list[dict[str, Any]]:
    """Text as TensorBoard's text plugin reads it; four spaces make Markdown leave it as it is."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.text.metadata import create_summary_metadata

    plain = "\n".join(f"    {line}" for line in text.splitlines())
    metadata = create_summary_metadata(display_name=tag, description="")
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[plain.encode()])
    return [{"tag": tag, "tensor": tensor, "metadata": metadata}]
