"""What a site does with a message: announce itself, train, evaluate; everything is checked against its own policy.

Every message meets a process of its own. What must be known from one to the next is in the site's folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedsim.client import train_clients
from fedsim.client_store import ClientStore
from fedsim.decoding import printable
from fedsim.deployment import wire
from fedsim.deployment.agreement import agreed
from fedsim.deployment.guard import Guard, Refused, locked
from fedsim.deployment.policy import plan_refusals, scenario_refusals
from fedsim.deployment.site_federation import site_federation
from fedsim.deployment.site_settings import SiteSettings, load_site
from fedsim.errors import BadInput, FedsimError
from fedsim.evaluation import metric_names
from fedsim.federation import Federation
from fedsim.job_checks import check_job
from fedsim.loading import parse_scenario
from fedsim.messages import MalformedMessage, pack_reply, unpack_job
from fedsim.params import bind_vector
from fedsim.scenario import Scenario

REFUSED = 700  # Flower leaves the codes of errors to applications
MOST_LINES = 50
UNFIT = "its data does not fit the scenario, or its folder is not in order; its own log says what it is"
CANNOT = "it cannot take part; its own log says why"

app = ClientApp()


class Site(NamedTuple):
    """A site: its folder, where its records are, its settings."""

    folder: Path
    data: str
    settings: SiteSettings

    @classmethod
    def of(cls, context: Context) -> Site:
        """The site that this SuperNode was started for."""
        folder = Path(str(context.node_config["folder"]))
        return cls(folder, str(context.node_config["data"]), load_site(folder))


def version() -> str:
    """The version of fedsim that is installed here."""
    return metadata.version("fedsim")


def answered(handle: Callable[[Message, Site], Message]) -> Callable[[Message, Context], Message]:
    """Handle one message at a time; what goes wrong becomes an error reply that holds nothing of the site's data."""

    @wraps(handle)
    def call(message: Message, context: Context) -> Message:
        site = Site.of(context)
        try:
            with locked(site.folder):
                return handle(message, site)
        except (Refused, MalformedMessage) as error:
            return _error(message, str(error))
        except FedsimError as error:
            # What is wrong with the site's data is for the site: the server is only told that something is.
            for line in str(error).splitlines()[:MOST_LINES]:
                print(f"fedsim: {printable(line)}", flush=True)
            return _error(message, UNFIT if isinstance(error, BadInput) else CANNOT)

    return call


def _error(message: Message, reason: str) -> Message:
    print(f"fedsim: refused: {printable(reason)}", flush=True)
    return Message(Error(REFUSED, printable(reason)), reply_to=message)


def announce(message: Message, site: Site) -> Message:
    """Answer a query: the records' number and signature, and whether the policy accepts the scenario."""
    order = wire.read_order(message)
    try:
        scenario = _scenario(site.settings, *wire.unpack_query(message))
        federation = _federation(scenario, site, order)
        with _guard(site, federation, order) as guard:
            problem = guard.foresee(min(scenario.rounds, _times(federation, scenario)))
        if problem is not None:
            raise Refused(problem)
    except Refused as error:
        print(f"fedsim: refused: {printable(str(error))}", flush=True)
        return wire.pack_announcement(wire.refusal(str(error), version()), message)
    data = federation.task.data
    return wire.pack_announcement(
        wire.Announcement(
            records=len(data.train),
            held_back=len(data.test),
            shape=data.shape,
            names=data.names,
            kind=data.kind,
            vocabulary=data.vocabulary,
            metrics=site.settings.policy.send_metrics,
            trainer=federation.trainer_name,
            version=version(),
        ),
        message,
    )


def _times(federation: Federation, scenario: Scenario) -> int:
    """How many rounds the site is likely to take part in."""
    from fedsim.privacy.planning import participations

    return participations(scenario, len(federation.population))


def train(message: Message, site: Site) -> Message:
    """Answer a job: the site's update, charged to its own ledger; a job that was answered gets the same answer."""
    order, job = wire.read_order(message), unpack_job(message)
    if job.clients.tolist() != [order.client] or job.round != order.round or job.round < 1:
        raise Refused("the job is not for this site alone, or not for this round")
    scenario = _scenario(site.settings, job.scenario, job.digest)
    name = wire.fingerprint(job, order)
    federation = _federation(scenario, site, order)
    if job.state.size:
        raise Refused("the job brings what clients keep, which this site keeps itself")
    check_job(federation, job)
    with _guard(site, federation, order) as guard:
        reply = guard.earlier(name)
        if reply is None:
            if (problem := guard.foresee(1)) is not None:
                raise Refused(problem)
            store = _store(site, federation, order)
            reply = train_clients(federation, job, store)
            guard.keep(name, reply)
            if store is not None:
                store.keep(order.round)
    answer = pack_reply(reply, message)
    wire.mark_reply(answer, name)
    return answer


def evaluate(message: Message, site: Site) -> Message:
    """Answer with the metrics of a model on the records that the site holds back, if its policy lets metrics out."""
    if not site.settings.policy.send_metrics:
        raise Refused("its policy sends no metrics (policy.send_metrics)")
    order, (params, texts) = wire.read_order(message), wire.unpack_evaluation(message)
    federation = _federation(_scenario(site.settings, *texts), site, order)
    if params.shape != (federation.start.numel(),) or not np.isfinite(params).all():
        raise MalformedMessage("the model does not belong to this scenario, or is NaN or infinite")
    import torch

    bind_vector(federation.module, torch.from_numpy(params).to(federation.device))
    task = federation.trainer.task
    found = task.evaluate(federation.trainer.module)
    return wire.pack_metrics({name: found[name] for name in metric_names(federation)}, message)


def _scenario(settings: SiteSettings, text: str, digest: str) -> Scenario:
    """The scenario of a message, if the policy has nothing against it; nothing that it names is imported before."""
    scenario = parse_scenario(text, "scenario")
    if scenario.digest != digest:
        raise Refused(f"the scenario has digest {scenario.digest}, not {digest} as the server says")
    if agreed(scenario) != scenario:
        raise Refused("the scenario holds what is the server's business alone (paths, engine), or no secure randomness")
    reasons = list(scenario_refusals(settings.policy, scenario))
    if reasons:
        raise Refused("; ".join(reasons))
    return scenario


def _federation(scenario: Scenario, site: Site, order: wire.Order) -> Federation:
    if order.round > scenario.rounds:
        raise Refused(f"the scenario has {scenario.rounds} rounds, and no round {order.round}")
    federation = site_federation(scenario, site.settings, site.data, order.client, order.sites)
    reasons = list(plan_refusals(site.settings.policy, federation.plan, order.client))
    if reasons:
        raise Refused("; ".join(reasons))
    return federation


@contextlib.contextmanager
def _guard(site: Site, federation: Federation, order: wire.Order) -> Iterator[Guard]:
    guard = Guard(site.folder, site.settings, federation.plan, order)
    try:
        yield guard
    finally:
        guard.close()


def _store(site: Site, federation: Federation, order: wire.Order) -> ClientStore | None:
    """What the algorithm's client keeps, as it was before this round: an attempt that was cut short is undone."""
    if not federation.state_size:
        return None
    folder = site.folder / "state" / order.run
    folder.mkdir(parents=True, exist_ok=True)
    store = ClientStore(folder, order.sites, federation.state_size)
    store.rewind(order.round - 1)
    return store


app.query()(answered(announce))
app.train()(answered(train))
app.evaluate()(answered(evaluate))

__all__ = ["REFUSED", "Site", "announce", "app", "evaluate", "train"]
