"""The Ray engine: a Flower ``Grid`` whose nodes are actors, each in a process of its own, on one machine or many."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from flwr.app import Error, Message

from fedsim.engines.grid import EngineGrid
from fedsim.engines.ray_actor import Place, Reference, TrainingActor
from fedsim.engines.ray_cluster import room
from fedsim.errors import BadInput, FedsimError
from fedsim.federation import Federation
from fedsim.messages import pack_reply, unpack_job
from fedsim.scenario import EngineSettings

CLIENT_ERROR = 1
# How long actors may wait for a machine; on a running cluster others may have taken what there is.
START_SECONDS = 300.0
NOTHING = np.zeros(0, np.float32)


@contextmanager
def ray_grid(federation: Federation) -> Iterator[tuple[RayGrid, Federation]]:
    """The actors of a federation, up for as long as the context lasts, and the federation as it trains there.

    Ray must be connected. Raises ``BadInput`` when there is no room for them.
    """
    prepared = [ray.put((federation.holdings, federation.plan))]  # kept, as a restarted actor needs it again
    actors = [_actor(federation) for _ in range(_count(federation.scenario.engine, federation))]
    try:
        places = _places([actor.place.remote(prepared, federation.scenario.digest) for actor in actors])
        yield RayGrid(actors, prepared), _placed(federation, places)
    finally:
        for actor in actors:
            with suppress(ray.exceptions.RayError):  # the cluster itself may be what failed
                ray.kill(actor)


class RayGrid(EngineGrid):
    """Delivers messages to actors; an exception there, or its second death over a message, becomes an error reply."""

    keeps_state = False

    def __init__(self, actors: list[Any], prepared: Reference) -> None:
        self._actors, self._prepared = actors, prepared
        self._sent: dict[str, tuple[Any, Message]] = {}
        self._count = 0

    def get_node_ids(self) -> Iterable[int]:
        """One for each actor, from 1."""
        return range(1, len(self._actors) + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start each message's training; the parameters, which the messages share, are put into the store once."""
        ids, stored = [], {}
        for message in messages:
            job = unpack_job(message)
            for array in (job.params, job.memory):
                if id(array) not in stored:
                    stored[id(array)] = ray.put(array)
            shared = stored[id(job.params)], stored[id(job.memory)]
            actor = self._actors[message.metadata.dst_node_id - 1]
            reply = actor.train.remote(replace(job, params=NOTHING, memory=NOTHING), self._prepared, *shared)
            self._count += 1
            ids.append(str(self._count))
            self._sent[ids[-1]] = reply, message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that are there, each once."""
        return self._pulled(list(message_ids), 0.0)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and yield each reply as soon as it is there, for ``timeout`` seconds at most."""
        end = time.monotonic() + timeout if timeout is not None else None
        ids = list(self.push_messages(messages))
        while any(number in self._sent for number in ids):
            left = None if end is None else max(0.0, end - time.monotonic())
            replies = self._pulled(ids, left)
            yield from replies
            if not replies:
                return

    def _pulled(self, ids: list[str], seconds: float | None) -> list[Message]:
        """The replies that are there, after waiting for one; ``seconds`` at most."""
        waiting = {self._sent[number][0]: number for number in ids if number in self._sent}
        if not waiting:
            return []
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=seconds, fetch_local=True)
        return [_answer(*self._sent.pop(waiting[reply])) for reply in done]


def _answer(reply: Any, message: Message) -> Message:
    """What an actor answered as a Flower message."""
    try:
        answer = ray.get(reply)
    except ray.exceptions.RayError as error:
        logging.getLogger("fedsim").warning("A Ray actor failed, so its clients drop out: %s", _last_line(error))
        return Message(Error(CLIENT_ERROR, str(error)), reply_to=message)
    # A copy: what comes from the object store cannot be written to.
    return pack_reply(replace(answer, total=np.array(answer.total)), message)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _actor(federation: Federation) -> Any:
    """An actor that is started again whenever it dies, and is then sent its job again, once."""
    scenario, needs = federation.scenario, federation.scenario.engine.actor
    options = {"num_cpus": needs.cpu, "num_gpus": needs.gpu, "max_restarts": -1, "max_task_retries": 1}
    remote = ray.remote(TrainingActor).options(scheduling_strategy="SPREAD", **options)
    return remote.remote(scenario.to_toml(), scenario.name, str(Path.cwd()))


def _count(engine: EngineSettings, federation: Federation) -> int:
    """How many actors: as many as are wanted or fit, but not more than clients."""
    fitting = room(ray.nodes(), engine.actor)
    needs = f"engine.resources = {{ cpu = {engine.actor.cpu:g}, gpu = {engine.actor.gpu:g} }}"
    if not fitting:
        raise BadInput(f"{needs}: no machine of the cluster has that much for an actor.")
    if engine.workers is not None and engine.workers > fitting:
        raise BadInput(f"engine.workers = {engine.workers}: the cluster has room for {fitting} actors of {needs}.")
    return min(engine.workers or fitting, len(federation.population))


def _places(answers: list[Any]) -> list[Place]:
    """Where every actor runs, from its answer; raises ``BadInput`` for those that cannot be started."""
    ready, waiting = ray.wait(answers, num_returns=len(answers), timeout=START_SECONDS)
    try:
        places = ray.get(ready)
    except FedsimError as error:
        raise BadInput(f"In an actor of Ray: {getattr(error, 'cause', error)}") from error
    except ray.exceptions.RayError as error:
        raise FedsimError(f"An actor of Ray could not be started: {error}") from error
    if waiting:
        raise BadInput(
            f"engine.workers: {len(waiting)} of {len(answers)} actors found no free machine in {START_SECONDS:g} s; "
            f"the cluster has {ray.available_resources().get('CPU', 0):g} cores free. Use fewer, or wait."
        )
    return list(places)


def _placed(federation: Federation, places: list[Place]) -> Federation:
    """The federation with what the actors picked to train with; raises ``BadInput`` if they disagree."""
    trainers, devices = ({getattr(place, key) for place in places} for key in ("trainer", "device"))
    if len(trainers) > 1:
        raise BadInput(
            'engine.trainer = "auto": the machines of the cluster would train with different ones '
            f"({', '.join(sorted(trainers))}); name one."
        )
    machines, kinds = len({place.node for place in places}), " and ".join(sorted(devices))
    where = f"in {len(places)} Ray actor(s) on {machines} machine(s), on {kinds}"
    return replace(federation, trainer_name=places[0].trainer, trainer_reason=f"{places[0].reason}; {where}")
