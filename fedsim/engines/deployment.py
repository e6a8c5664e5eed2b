"""The deployment engine: a Flower ``Grid`` whose nodes are real sites, each of them one client."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray

from fedsim.decoding import printable
from fedsim.deployment.inspecting import Inspector
from fedsim.deployment.link import Link, RunGone
from fedsim.deployment.roster import Member
from fedsim.deployment.site_log import SiteLog
from fedsim.deployment.wire import Order, fingerprint, write_order
from fedsim.errors import FedsimError
from fedsim.messages import REJECTED, TrainJob, pack_job, unpack_job
from fedsim.scenario import Scenario

Ids = NDArray[np.int64]

POLL_SECONDS = 0.2
LOOK_SECONDS = 3.0  # how often it is looked whether sites that are waited for are still there
ABSENT = 703
MAX_RESTARTS = 5


class DeploymentGrid(Grid):
    """Sends each site its job, waits as long as the scenario allows, and passes on only replies that can be right."""

    def __init__(self, link: Link, scenario: Scenario, seconds: float, log: SiteLog) -> None:
        self.session: Any = None
        self.members: list[Member] = []
        self.run_name, self.round, self.seconds, self.scenario = "query", 0, seconds, scenario
        self._link, self._log = link, log
        self._inspector: Inspector | None = None

    def homes(self, clients: Ids) -> list[tuple[int, Ids]]:
        """The nodes that the clients live at, each with its one client."""
        there = self.nodes()
        members = [(client, self.members[int(client)]) for client in clients]
        return [(there.get(member.key.encode(), member.node), np.array([client])) for client, member in members]

    def order(self, client: int, round_: int) -> Order:
        """What a site is told beside a message."""
        return Order(self.run_name, client, max(1, len(self.members)), round_)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver jobs and wait; a reply that is refused, rejected or missing becomes an error."""
        jobs = {message.metadata.dst_node_id: self._for_sites(unpack_job(message)) for message in messages}
        sent, marks = {}, {}
        for node, job in jobs.items():
            order = self.order(int(job.clients[0]), job.round)
            sent[node] = pack_job(job, node)
            write_order(sent[node], order)
            marks[node] = fingerprint(job, order)
            self.round = job.round
        replies = self.ask(sent, timeout or self.seconds)
        found = self._inspected(jobs, marks, replies)
        return [self._passed(jobs[node], sent[node], replies, found.get(node)) for node in sent]

    def _for_sites(self, job: TrainJob) -> TrainJob:
        """The job with the scenario as sites agree to it."""
        return replace(job, scenario=self.scenario.to_toml(), digest=self.scenario.digest)

    def _inspected(
        self, jobs: dict[int, TrainJob], marks: dict[int, str], replies: dict[int, Message]
    ) -> dict[int, str]:
        """Why replies are rejected, by node."""
        if self._inspector is None:
            self._inspector = Inspector(self.session.federation)
        good = {node: reply for node, reply in replies.items() if not reply.has_error()}
        return self._inspector.reasons(jobs, marks, good)

    def _passed(self, job: TrainJob, sent: Message, replies: dict[int, Message], reason: str | None) -> Message:
        """The reply, or the error that stands for it; what happened is noted in the log."""
        name, reply = self.members[int(job.clients[0])].name, replies.get(sent.metadata.dst_node_id)
        if reply is None:
            self._log.note(job.round, name, "dropped", "no answer in time, or the site is offline")
            return Message(Error(ABSENT, f"site {name} did not answer"), reply_to=sent)
        if reply.has_error():
            self._log.note(job.round, name, "refused", reply.error.reason or f"error {reply.error.code}")
            return Message(Error(ABSENT, f"site {name} refused: {printable(reply.error.reason or '')}"), reply_to=sent)
        if reason is not None:
            self._log.note(job.round, name, "rejected", reason)
            return Message(Error(REJECTED, f"site {name}: {reason}"), reply_to=sent)
        return reply

    def ask(self, messages: dict[int, Message], seconds: float) -> dict[int, Message]:
        """The replies of the nodes that gave one; a run that Flower lost is made anew and the rest asked again."""
        until, replies = time.monotonic() + seconds, dict[int, Message]()
        for _ in range(MAX_RESTARTS):
            waiting = {node: message for node, message in messages.items() if node not in replies}
            try:
                self._ask(waiting, until, replies)
                return replies
            except RunGone:
                self._link.open()
        raise FedsimError("Flower gave the run up again and again; is another program serving the SuperLink's runs?")

    def _ask(self, messages: dict[int, Message], until: float, replies: dict[int, Message]) -> None:
        """Send messages to the nodes that are online, and put the replies of this run's into ``replies``."""
        online = self._wait_online(set(messages), until)
        fresh = [_renewed(message) for node, message in messages.items() if node in online]
        ids = self._link.call(lambda grid: list(grid.push_messages(fresh))) if fresh else []
        waiting = {number: message.metadata.dst_node_id for number, message in zip(ids, fresh, strict=True) if number}
        looked = time.monotonic()
        late = False
        while waiting and not late:
            late = time.monotonic() > until  # what has come by then still counts
            for reply in self.pull_messages(waiting):
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None and (reply.has_error() or reply.metadata.src_node_id == node):
                    replies[node] = reply
            if time.monotonic() - looked > LOOK_SECONDS:
                looked, there = time.monotonic(), set(self.get_node_ids())
                waiting = {number: node for number, node in waiting.items() if node in there}
            time.sleep(POLL_SECONDS if waiting else 0)

    def _wait_online(self, nodes: set[int], until: float) -> set[int]:
        """Which of the nodes are online; it waits only while none is."""
        while True:
            online = nodes & set(self.get_node_ids())
            if online or not nodes or time.monotonic() > until:
                return online
            time.sleep(1.0)

    def nodes(self) -> dict[bytes, int]:
        """The nodes that are online, by the key with which each proved who it is."""
        return {node.public_key: node.node_id for node in self._link.call(lambda grid: list(grid.get_nodes()))}

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are online."""
        return list(self.nodes().values())

    def close(self) -> None:
        """End the run in Flower."""
        self._link.close()

    def set_run(self, run: Run) -> None:
        """The link knows the run; nothing is set."""

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._link.grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message for a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Flower's own way to send, without any check of replies; for strategies that want it."""
        return self._link.call(lambda grid: list(grid.push_messages(list(messages))))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Flower's own way to receive."""
        return self._link.call(lambda grid: list(grid.pull_messages(list(message_ids))))


def _renewed(message: Message) -> Message:
    """The same content in a message of the run that this process serves now."""
    sent = message.metadata
    return Message(
        message.content, dst_node_id=sent.dst_node_id, message_type=sent.message_type, group_id=sent.group_id
    )
