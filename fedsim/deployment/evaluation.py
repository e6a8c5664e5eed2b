"""Metrics in a deployment: of records that the sites hold back, as far as their policies let metrics out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fedsim.deployment.wire import pack_evaluation, unpack_metrics
from fedsim.evaluation import compared
from fedsim.messages import MalformedMessage

if TYPE_CHECKING:
    from fedsim.deployment.roster import Member
    from fedsim.deployment.site_log import SiteLog
    from fedsim.engines.deployment import DeploymentGrid
    from fedsim.federation import Federation


class SiteEvaluation:
    """Asks the sites for metrics; without any that may answer, or with test data at the server, it asks nobody."""

    def __init__(self, grid: DeploymentGrid, members: list[Member], own_tests: bool, log: SiteLog) -> None:
        self._grid, self._members, self._log = grid, members, log
        self.tests = not own_tests
        self._by_site: dict[str, dict[str, float]] = {}
        self._asked: tuple[bytes, dict[str, float]] | None = None

    @property
    def names(self) -> list[str]:
        """The sites that take part, in the order of their client ids."""
        return [member.name for member in self._members]

    @property
    def records(self) -> int:
        """How many records the sites that send metrics hold back."""
        return sum(member.announcement.held_back for member in self._tested())

    def evaluate(self, federation: Federation, params: Tensor) -> dict[str, float]:
        """Means over the sites' own metrics, weighted by how many records each holds back; NaN if nobody answers."""
        names = federation.task.objective.metric_names
        model = params.detach().cpu().numpy().astype(np.float32)
        key = model.tobytes()
        if self._asked is None or self._asked[0] != key:
            self._by_site = self._ask(model, names)
            self._asked = (key, self._mean(names))
        return self._asked[1]

    def by_client(self, federation: Federation) -> dict[str, Any]:
        """The compared metric of each site, as it last answered."""
        metric = compared(federation.task.objective)
        return {
            "metric": metric,
            "clients": [
                {
                    "client": member.name,
                    "test_records": member.announcement.held_back,
                    "value": self._by_site.get(member.name, {}).get(metric),
                }
                for member in self._members
            ],
        }

    def released(self, federation: Federation) -> list[str]:
        """What left the sites outside any guarantee, a sentence each."""
        lines = ["Each site announced how many records it trains on and holds back, and what they look like."]
        if not self.tests:
            count = len(federation.task.data.test)
            return [f"Test metrics were computed on {count} records of the server's own; no site's records.", *lines]
        senders = ", ".join(member.name for member in self._tested())
        if not senders:
            return ["No site's policy lets metrics out, so there are none.", *lines]
        return [
            f"Metrics were released by the sites {senders}: each computed them on the records that it holds back "
            f"({self.records} together) and sent them without noise. Nothing protects those records. Means over sites "
            "are weighted by these numbers of records.",
            *lines,
        ]

    def describe(self) -> list[dict[str, Any]]:
        """Every site that takes part, for the summary."""
        return [
            {
                "name": member.name,
                "records": member.announcement.records,
                "held_back": member.announcement.held_back,
                "metrics": member.announcement.metrics,
                "trainer": member.announcement.trainer,
                **self._log.counts(member.name),
            }
            for member in self._members
        ]

    def _tested(self) -> list[Member]:
        return [member for member in self._members if member.announcement.metrics and member.announcement.held_back]

    def _ask(self, model: Any, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        scenario, round_ = self._grid.scenario, self._grid.round
        tested = {self._members.index(member): member for member in self._tested()}
        texts = scenario.to_toml(), scenario.digest
        asked = {
            member.node: pack_evaluation(model, texts, member.node, self._grid.order(client, round_))
            for client, member in tested.items()
        }
        replies = self._grid.ask(asked, self._grid.seconds) if asked else {}
        found = {}
        for member in tested.values():
            reply = replies.get(member.node)
            if reply is None or reply.has_error():
                reason = "no answer" if reply is None else str(reply.error.reason)
                self._log.note(round_, member.name, "dropped", f"no metrics: {reason}")
                continue
            try:
                found[member.name] = unpack_metrics(reply, names)
            except MalformedMessage as error:
                self._log.note(round_, member.name, "rejected", str(error))
        return found

    def _mean(self, names: tuple[str, ...]) -> dict[str, float]:
        weights = {member.name: member.announcement.held_back for member in self._tested()}
        total = sum(weights[site] for site in self._by_site)
        if not total:
            return dict.fromkeys(names, math.nan)
        return {
            name: sum(weights[site] * values[name] for site, values in self._by_site.items()) / total for name in names
        }
