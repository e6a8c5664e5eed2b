"""What our own grids have in common: there is one run, in this process."""

from __future__ import annotations

from abc import ABC

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class EngineGrid(Grid, ABC):
    """A Flower ``Grid`` of ours; ``keeps_state`` says whether its clients reach what they keep by themselves."""

    keeps_state: bool

    def set_run(self, run: Run) -> None:
        """There is one run, in this process; nothing is set."""

    @property
    def run(self) -> Run:
        """Flower's description of a run, which our engines do not have."""
        raise RuntimeError("the engine has no Flower run")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message for a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)
