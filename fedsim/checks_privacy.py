"""Settings of ``[privacy]`` that contradict each other, or that no guarantee would rest on."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.checks_raw import one_noise
from fedsim.privacy.clip_settings import AdaptiveClip
from fedsim.privacy.sampling import All, Cyclic, Fixed, Poisson
from fedsim.scenario import ClientPrivacy, ExamplePrivacy, Scenario

# A single release with this noise has an epsilon of 500,000; the accountants' arithmetic overflows not far below.
LEAST_NOISE = 1e-3


def check_privacy(scenario: Scenario) -> Iterator[str]:
    """Every impossible combination, one line each, with the dotted path."""
    yield from _privacy("privacy.example", scenario.privacy.example)
    yield from _privacy("privacy.client", scenario.privacy.client)
    yield from _example_delta(scenario)
    yield from _client_mechanism(scenario)
    yield from _relation(scenario)
    yield from _both_units(scenario)
    yield from _shared_ledger(scenario)


def _privacy(path: str, settings: ExamplePrivacy | ClientPrivacy | None) -> Iterator[str]:
    if settings is None:
        return
    if (settings.noise_multiplier is None) == (settings.target_epsilon is None):
        yield one_noise(path)
    if settings.noise_multiplier == 0:
        yield (
            f"{path}.noise_multiplier = 0.0: without noise there is no guarantee (epsilon is infinite); "
            f"leave out [{path}] to run without privacy"
        )
    if settings.noise_multiplier is not None and 0 < settings.noise_multiplier < LEAST_NOISE:
        yield (
            f"{path}.noise_multiplier = {settings.noise_multiplier}: noise below {LEAST_NOISE} protects nobody "
            f"(epsilon is in the millions); leave out [{path}] to run without privacy"
        )
    for key in ("target_epsilon", "budget"):
        value = getattr(settings, key)
        if value is not None and value > 50:
            yield f"{path}.{key} = {value}: an epsilon above 50 guarantees nothing in practice; leave out [{path}]"
    if settings.target_epsilon is not None and settings.budget is not None:
        yield f"{path}.budget: target_epsilon is already the budget; give one of them"


def _example_delta(scenario: Scenario) -> Iterator[str]:
    example = scenario.privacy.example
    if example is not None and (example.delta is None) == (example.delta_times_n is None):
        yield "privacy.example: give exactly one of delta and delta_times_n"


def _client_mechanism(scenario: Scenario) -> Iterator[str]:
    client, sampling = scenario.privacy.client, scenario.cohort.sampling
    if client is None:
        return
    path, correlated = "privacy.client", client.mechanism != "gaussian"
    if (client.mechanism == "banded") != (client.bands is not None):
        yield f'{path}.bands: needed with mechanism = "banded", and only there'
    if client.bands is not None and client.bands > scenario.rounds:
        yield f"{path}.bands = {client.bands}: noise cannot be correlated over more than rounds = {scenario.rounds}"
    if correlated and client.placement == "client":
        yield f'{path}.placement = "client": correlated noise over rounds needs one place that adds it, the server'
    if correlated and isinstance(client.clipping, AdaptiveClip):
        yield f"{path}.clipping: correlated noise needs the same clip norm in every round"
    if correlated and not isinstance(sampling, Cyclic):
        yield (
            f'{path}.mechanism = "{client.mechanism}": correlated noise needs participations that are far apart; '
            'use cohort.sampling = { kind = "cyclic", groups = ... }'
        )
    elif isinstance(sampling, Cyclic):
        needed = scenario.rounds if client.mechanism == "tree" else client.bands or 1
        if sampling.groups < needed:
            yield (
                f"cohort.sampling.groups = {sampling.groups}: mechanism {client.mechanism} here needs participations "
                f"at least {needed} rounds apart, so at least that many groups"
            )
    if client.placement == "client" and isinstance(client.clipping, AdaptiveClip):
        yield f'{path}.clipping: adaptive clipping counts at the server, so it needs placement = "server"'
    if client.projected is not None:
        if client.placement == "client" or correlated or isinstance(client.clipping, AdaptiveClip):
            yield f"{path}.projected: only for independent noise at the server with a fixed clip norm"
        if client.projected.cohort > client.projected.population:
            yield f"{path}.projected.cohort = {client.projected.cohort}: is larger than projected.population"
        if not isinstance(sampling, Poisson | All):
            yield f"{path}.projected: the hypothetical cohort is a Poisson sample, so the simulated one must be too"
        if scenario.privacy.ledger is not None:
            yield f"{path}.projected: a hypothetical epsilon does not belong into a shared privacy.ledger"


def _both_units(scenario: Scenario) -> Iterator[str]:
    """What records' privacy does in public must not depend on one client under client-level privacy."""
    example, client = scenario.privacy.example, scenario.privacy.client
    if example is None or client is None:
        return
    if isinstance(example.clipping, AdaptiveClip):
        yield (
            "privacy.example.clipping: adaptive clipping of records tells every client what one client's records are "
            "like, which [privacy.client] does not cover; use a fixed clip norm"
        )
    if example.noise == "common":
        yield 'privacy.example.noise = "common": would depend on the size of one client; use "per_client"'
    budgeted = example.budget is not None or example.target_epsilon is not None
    if isinstance(scenario.cohort.sampling, Fixed) and client.relation == "replace-one" and budgeted:
        yield (
            "privacy.example.budget: clients that are left out make the cohort no longer a uniform sample of fixed "
            "size, which the accounting of [privacy.client] needs; use noise_multiplier without a budget"
        )


def _shared_ledger(scenario: Scenario) -> Iterator[str]:
    privacy = scenario.privacy
    if privacy.ledger is None:
        return
    where = f'privacy.ledger = "{privacy.ledger}"'
    if privacy.randomness != "secure":
        yield (
            f"{where}: runs with the same seed draw the same noise, which their difference would cancel; runs that "
            'share a ledger need privacy.randomness = "secure"'
        )
    if privacy.example is None and privacy.client is None:
        yield f"{where}: this run protects nothing, so no ledger can say what it spends"
    if privacy.client is not None and privacy.client.placement == "server" and privacy.client.relation == "replace-one":
        yield f'{where}: not with relation "replace-one" at the server, which would mix with local noise'


def _relation(scenario: Scenario) -> Iterator[str]:
    client, sampling = scenario.privacy.client, scenario.cohort.sampling
    if client is None or client.relation is None:
        return
    where = f'privacy.client.relation = "{client.relation}"'
    if client.placement == "client":
        if client.relation != "replace-one":
            yield f'{where}: local noise is accounted under "replace-one"; leave the relation out'
    elif isinstance(sampling, Fixed) and client.relation == "add-remove":
        yield f'{where}: cohorts of fixed size have no such guarantee; use "zero-out" or "replace-one"'
    elif not isinstance(sampling, Fixed) and client.relation == "zero-out" and scenario.asynchronous is None:
        yield f'{where}: for cohorts of fixed size; here "add-remove" says the same'
    elif client.relation == "replace-one" and (
        isinstance(client.clipping, AdaptiveClip) or client.mechanism != "gaussian"
    ):
        yield f"{where}: not with adaptive clipping or correlated noise, whose analysis is for add-remove"
