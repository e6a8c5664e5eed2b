"""The in-process grid is a Flower grid: it calls the ClientApp, and turns what goes wrong there into error replies."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engines import InProcessGrid
from fedsim.messages import ensure_identity


def message(grid: InProcessGrid, number: int) -> Message:
    ensure_identity()
    content = RecordDict({"config": ConfigRecord({"number": number})})
    return grid.create_message(content, "train", next(iter(grid.get_node_ids())), str(number))


@pytest.fixture
def grid() -> InProcessGrid:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = message.content.config_records["config"]["number"]
        if number == 2:
            raise ValueError("two is too many")
        return Message(RecordDict({"config": ConfigRecord({"answer": number + 1})}), reply_to=message)

    return InProcessGrid(app)


def test_replies_come_back_and_errors_are_flower_errors(grid):
    replies = list(grid.send_and_receive([message(grid, n) for n in (1, 2, 3)]))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[2].content.config_records["config"]["answer"] == 4
    assert "two is too many" in replies[1].error.reason


def test_pushed_messages_are_pulled_once(grid):
    numbers = list(grid.push_messages([message(grid, 1), message(grid, 3)]))
    assert len(list(grid.pull_messages(numbers[:1]))) == 1
    assert len(list(grid.pull_messages(numbers))) == 1
    assert list(grid.pull_messages(numbers)) == []
