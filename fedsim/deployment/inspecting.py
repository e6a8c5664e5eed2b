"""Replies of sites, looked at one by one before any of them counts."""

from __future__ import annotations

import hashlib

import numpy as np
from flwr.app import Message

from fedsim.deployment.wire import answers
from fedsim.federation import Federation
from fedsim.messages import MalformedMessage, TrainJob, TrainReply
from fedsim.replies import ROUNDING, longest_report, read_reply
from fedsim.updates import LONGEST

# Without privacy nothing bounds an update. One this many times as long as the median is no training on like data.
TIMES_MEDIAN = 20.0
REMEMBERED = 50


class Inspector:
    """Finds replies that cannot be right: shape, numbers, weight, events, length, and whether they answer this job."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._lengths: list[float] = []
        self._seen: dict[int, dict[bytes, int]] = {}

    def reasons(self, jobs: dict[int, TrainJob], marks: dict[int, str], replies: dict[int, Message]) -> dict[int, str]:
        """Why replies are rejected, by node; the others are good."""
        found: dict[int, str] = {}
        lengths: dict[int, float] = {}
        for node, message in replies.items():
            try:
                if not answers(message, marks[node]):
                    raise MalformedMessage("it does not answer this round's job: an old reply, or one to another job")
                lengths[node] = self._length(node, jobs[node], message)
            except MalformedMessage as error:
                found[node] = str(error)
        return found | self._too_long(jobs, lengths)

    def _length(self, node: int, job: TrainJob, message: Message) -> float:
        """The length of the site's report; raises ``MalformedMessage``."""
        federation, client = self._federation, int(job.clients[0])
        reply = read_reply(federation, job, message)
        values = _report(reply)
        self._refuse_repeated(client, job.round, values)
        return float(np.linalg.norm(values)) / (1.0 if reply.rows is not None else reply.weight)

    def _refuse_repeated(self, client: int, round_: int, values: np.ndarray) -> None:
        """Two rounds never give the same numbers, unless nothing was learnt."""
        seen, key = self._seen.setdefault(client, {}), hashlib.sha256(values.tobytes()).digest()
        if values.any() and seen.get(key, round_) != round_:
            raise MalformedMessage(f"it repeats its report of round {seen[key]}")
        if len(seen) > REMEMBERED:
            seen.pop(next(iter(seen)))
        seen[key] = round_

    def _too_long(self, jobs: dict[int, TrainJob], lengths: dict[int, float]) -> dict[int, str]:
        found = {}
        bound = self._bound(lengths)
        for node, length in lengths.items():
            known = longest_report(self._federation, jobs[node])
            limit = known if known < LONGEST else bound
            if not length <= limit * ROUNDING:
                found[node] = f"its update has length {length:.4g}; at most {limit:.4g} can be right"
        self._lengths += [length for node, length in lengths.items() if node not in found]
        del self._lengths[:-REMEMBERED]
        return found

    def _bound(self, lengths: dict[int, float]) -> float:
        """A multiple of the median length, in this round and the ones before; of two, of the smaller."""
        known = sorted([*self._lengths, *(length for length in lengths.values() if np.isfinite(length))])
        return TIMES_MEDIAN * known[(len(known) - 1) // 2] if len(known) > 1 else np.inf


def _report(reply: TrainReply) -> np.ndarray:
    return reply.total if reply.rows is None else reply.rows.reports.astype(np.float64).reshape(-1)
