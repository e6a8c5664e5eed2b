"""What cannot be combined with ``[devices]`` and ``[asynchronous]``, with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

from fedsim.privacy.clip_settings import AdaptiveClip
from fedsim.privacy.sampling import Fixed
from fedsim.scenario import Scenario


def check_devices(scenario: Scenario) -> Iterator[str]:
    """Every impossible combination, one line each, with the dotted path."""
    clients = scenario.population.clients
    if clients is not None:  # else the data decides, and the set-up checks
        yield from check_places(scenario, clients, "population.clients")
    if scenario.asynchronous is not None:
        yield from _asynchronous(scenario)
        yield from _asynchronous_privacy(scenario)
    elif scenario.devices is not None:
        yield from _synchronous(scenario)


def check_places(scenario: Scenario, clients: int, name: str = "training clients") -> Iterator[str]:
    """Buffers and places for more than the clients that there are, a line each."""
    method = scenario.asynchronous
    if method is None:
        return
    defaults = {field.name: field.default for field in dataclasses.fields(cast("Any", method))}
    for key in ("buffer_size", "concurrency"):
        value = getattr(method, key)
        if value > clients:
            default = ", the default" if value == defaults.get(key) else ""
            yield f"asynchronous.{key} = {value}{default}: there are only {name} = {clients}; set it to at most that"


def check_sent(scenario: Scenario, beside_update: int, memory: int) -> Iterator[str]:
    """Why an algorithm whose clients or server send so many values beside the model does not go with a method."""
    method, algorithm = scenario.asynchronous, getattr(scenario.algorithm, "name", "")
    if method is None or not (beside_update or memory):
        return
    if method.mixes:
        yield (
            f'asynchronous.kind = "{method.kind}": it mixes models, and algorithm.name = "{algorithm}" '
            'sends more than models; use "fedbuff"'
        )
    if method.staleness.kind != "constant":
        yield (
            f'asynchronous.staleness.kind = "{method.staleness.kind}": with algorithm.name = "{algorithm}" the server '
            "keeps or multiplies means of what clients report, which must count every report whole; use "
            'asynchronous.staleness = { kind = "constant" }'
        )
    local = scenario.algorithm.local
    if beside_update > 1 and (local.schedule.kind != "constant" or local.warmup_rounds):
        yield (
            f'algorithm.local.schedule.kind = "{local.schedule.kind}", algorithm.local.warmup_rounds = '
            f'{local.warmup_rounds}: clients of algorithm.name = "{algorithm}" report gradients in units of a round\'s '
            "path, and with [asynchronous] reports of different rounds meet; use a constant learning rate"
        )


def _synchronous(scenario: Scenario) -> Iterator[str]:
    devices, client = scenario.devices, scenario.privacy.client
    assert devices is not None
    if devices.over_selection and client is not None:
        yield (
            f"devices.over_selection = {devices.over_selection}: who is fast enough to count would depend on who else "
            "was asked, so that one client could change which others are in the sum, by more than the one clip norm "
            "that [privacy.client] covers; use devices.deadline_seconds, by which each is judged alone"
        )
    elif devices.over_selection and not isinstance(scenario.cohort.sampling, Fixed):
        yield (
            f"devices.over_selection = {devices.over_selection}: only cohorts of a fixed size have an excess; use "
            'cohort.sampling = { kind = "fixed", size = ... }'
        )
    if client is not None and devices.availability.follows_clock and devices.deadline_seconds is None:
        yield (
            f'devices.availability.kind = "{devices.availability.kind}": how long a round takes tells who was drawn, '
            "and here decides who is there in later rounds, which [privacy.client] does not cover; set "
            "devices.deadline_seconds, which then is how long every round lasts"
        )


def _asynchronous(scenario: Scenario) -> Iterator[str]:
    devices, sampling, aggregation = scenario.devices, scenario.cohort.sampling, scenario.algorithm.aggregation
    if devices is None:
        yield "asynchronous: needs [devices], whose clock says who arrives when"
    elif devices.deadline_seconds is not None:
        yield f"devices.deadline_seconds = {devices.deadline_seconds}: with [asynchronous] nobody waits; leave it out"
    if devices is not None and devices.over_selection:
        yield f"devices.over_selection = {devices.over_selection}: with [asynchronous] nobody waits; leave it out"
    if sampling.kind != "all":
        yield (
            f'cohort.sampling.kind = "{sampling.kind}": with [asynchronous] clients begin one by one, as others '
            "finish; leave it out"
        )
    if scenario.algorithm.strategy is not None:
        yield "algorithm.strategy: Flower's strategies wait for all replies of a round, which [asynchronous] does not"
    elif aggregation.needs_every_update:
        yield (
            f'algorithm.aggregation.kind = "{aggregation.kind}": has no weights for updates that are late; with '
            '[asynchronous] use "mean" or "norm_bound"'
        )


def _asynchronous_privacy(scenario: Scenario) -> Iterator[str]:
    example, client = scenario.privacy.example, scenario.privacy.client
    if example is not None and isinstance(example.clipping, AdaptiveClip):
        yield "privacy.example.clipping: with [asynchronous] clients work with clip norms of different rounds"
    if client is None:
        return
    if isinstance(client.clipping, AdaptiveClip):
        yield "privacy.client.clipping: with [asynchronous] updates in one sum come from rounds of different clip norms"
    if client.mechanism != "gaussian":
        yield (
            f'privacy.client.mechanism = "{client.mechanism}": correlated noise needs participations that are far '
            "apart, and with [asynchronous] fast clients come back soon"
        )
    if client.projected is not None:
        yield "privacy.client.projected: is for cohorts that are drawn, and with [asynchronous] none is"
    if client.placement == "server" and client.relation not in (None, "zero-out"):
        yield (
            f'privacy.client.relation = "{client.relation}": with [asynchronous] a client that comes or goes moves '
            'everybody behind it; the guarantee is "zero-out"'
        )
