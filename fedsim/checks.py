"""Combinations of settings that cannot work, found before anything is loaded or written."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fedsim.checks_deployment import deployment_problems
from fedsim.checks_raw import one_noise, unknown_optimizer
from fedsim.models import ModelOptions
from fedsim.optimizers import ELEMENTWISE, build_optimizer, optimizer_classes, option_names
from fedsim.population import Natural
from fedsim.privacy.clip_settings import AdaptiveClip
from fedsim.privacy.sampling import All, Cyclic, Fixed, Poisson
from fedsim.scenario import ClientPrivacy, ExamplePrivacy, Scenario
from fedsim.steering import steered

# A single release with this noise has an epsilon of 500,000; the accountants' arithmetic overflows not far below.
LEAST_NOISE = 1e-3


def check_combinations(scenario: Scenario) -> list[str]:
    """Every impossible combination in the scenario, one line each, with the dotted path."""
    return [
        *_optimizer("algorithm.local", scenario.algorithm.local, list(ELEMENTWISE)),
        *_optimizer("algorithm.server", scenario.algorithm.server, sorted(optimizer_classes())),
        *_privacy("privacy.example", scenario.privacy.example),
        *_privacy("privacy.client", scenario.privacy.client),
        *_cohort(scenario),
        *_example_delta(scenario),
        *_client_mechanism(scenario),
        *_relation(scenario),
        *_both_units(scenario),
        *_shared_ledger(scenario),
        *_scaling(scenario),
        *_weighting(scenario),
        *_evaluation(scenario),
        *deployment_problems(scenario),
        *_max_grad_norm(scenario),
        *_initial(scenario.model),
        *_finite("algorithm.local.options", scenario.algorithm.local.options),
        *_finite("algorithm.server.options", scenario.algorithm.server.options),
        *_finite("model.settings", getattr(scenario.model, "settings", {})),
        *_finite("data.settings", getattr(scenario.data, "settings", {})),
    ]


def _optimizer(path: str, settings: Any, valid: list[str]) -> Iterator[str]:
    if settings.optimizer not in valid:
        yield unknown_optimizer(path, settings.optimizer, valid)
        near = difflib.get_close_matches(settings.optimizer, valid, n=1)
        if not near:
            return
        settings = replace(settings, optimizer=near[0])
    names = option_names(settings.optimizer)
    unknown = [name for name in settings.options if name not in names]
    for name in unknown:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"valid: {', '.join(names)}"
        yield f'{path}.options.{name}: optimizer "{settings.optimizer}" has no such option ({hint})'
    if not unknown:
        yield from _buildable(path, settings)


def _finite(path: str, value: Any) -> Iterator[str]:
    """NaN and infinity in tables of free form; elsewhere the fields' types refuse them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path} = {value}: must be a finite number"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _finite(f"{path}.{key}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _finite(f"{path}[{number}]", item)


def _buildable(path: str, settings: Any) -> Iterator[str]:
    import torch

    parameter = torch.zeros(2)
    try:
        optimizer = build_optimizer(settings.optimizer, parameter, settings.learning_rate, settings.options)
        parameter.grad = torch.zeros(2)
        optimizer.step()
    except Exception as error:
        yield f"{path}.options = {settings.options}: {error}"


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


def _cohort(scenario: Scenario) -> Iterator[str]:
    clients = scenario.population.clients
    if clients is not None:  # else the data decides, and the set-up checks
        yield from check_clients(scenario, clients, "population.clients")


def check_clients(scenario: Scenario, clients: int, name: str = "training clients") -> Iterator[str]:
    """What so many clients cannot have, one line each: larger cohorts, and a delta of 1 / clients or more."""
    sampling, client = scenario.cohort.sampling, scenario.privacy.client
    if isinstance(sampling, Fixed) and sampling.size > clients:
        yield f"cohort.sampling.size = {sampling.size}: there are only {name} = {clients}"
    if client is not None and client.projected is not None:
        clients, name = client.projected.population, "privacy.client.projected.population"
    if client is not None and client.delta >= 1 / clients:
        yield (
            f"privacy.client.delta = {client.delta}: must be below 1 / {name} = {1 / clients:.3g}; "
            "at or above that, publishing one client's data whole would count as private"
        )


def _evaluation(scenario: Scenario) -> Iterator[str]:
    evaluation, privacy = scenario.evaluation, scenario.privacy
    folds, fold = evaluation.folds, evaluation.fold
    if fold is not None and (folds is None or fold > folds):
        yield f"evaluation.fold = {fold}: must be one of evaluation.folds = {folds or 'none'}"
    if folds is not None and evaluation.test.kind != "source":
        yield (
            f'evaluation.test.kind = "{evaluation.test.kind}": with evaluation.folds every client holds back one of '
            "its folds already; leave it out"
        )
    if folds is not None and privacy.ledger is not None:
        yield "evaluation.folds: the folds have different training records, so no privacy.ledger can be shared"
    if evaluation.tests_clients and (privacy.example is not None or privacy.client is not None):
        yield from steered(scenario)


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
    elif not isinstance(sampling, Fixed) and client.relation == "zero-out":
        yield f'{where}: for cohorts of fixed size; here "add-remove" says the same'
    elif client.relation == "replace-one" and (
        isinstance(client.clipping, AdaptiveClip) or client.mechanism != "gaussian"
    ):
        yield f"{where}: not with adaptive clipping or correlated noise, whose analysis is for add-remove"


def _scaling(scenario: Scenario) -> Iterator[str]:
    """One record moves the mean and the spread by which all others of its owner are scaled."""
    if getattr(getattr(scenario.data, "scaling", None), "kind", None) != "client":
        return
    path = 'data.scaling.kind = "client": each record would change the scaled values of '
    if scenario.privacy.example is not None:
        yield f'{path}its client\'s others, which [privacy.example] does not cover; use "constants" or "public"'
    if scenario.privacy.client is not None and not isinstance(scenario.population.partition, Natural):
        yield f'{path}its owner\'s others at other clients; with [privacy.client] use population.partition = "natural"'


def _max_grad_norm(scenario: Scenario) -> Iterator[str]:
    norm = scenario.algorithm.local.max_grad_norm
    if norm is not None and scenario.privacy.example is not None:
        yield (
            f"algorithm.local.max_grad_norm = {norm}: with [privacy.example] every record's gradient is clipped by "
            "privacy.example.clip_norm, and what is left to scale is mostly noise; leave it out"
        )


def _initial(model: object) -> Iterator[str]:
    if not isinstance(model, ModelOptions) or model.initial is not None:
        return
    for key in ("initial_skip", "initial_sha256"):
        if getattr(model, key):
            yield f"model.{key}: only used with model.initial, the file to start from"


def _weighting(scenario: Scenario) -> Iterator[str]:
    algorithm = scenario.algorithm
    client = scenario.privacy.client
    if client is not None and client.placement == "client" and algorithm.weighting == "examples":
        yield 'algorithm.weighting = "examples": with local noise a client\'s weight would leave it without noise'
        return
    if client is None:
        if algorithm.weight_cap is not None:
            yield "algorithm.weight_cap: only used with [privacy.client]"
        return
    if algorithm.weighting == "examples" and algorithm.weight_cap is None:
        yield (
            'algorithm.weighting = "examples": under client-level privacy a client\'s size is private; '
            'use "uniform", or set a public algorithm.weight_cap (weights become min(n / cap, 1))'
        )
    if algorithm.weighting != "examples" and algorithm.weight_cap is not None:
        yield 'algorithm.weight_cap: only used with algorithm.weighting = "examples"'
