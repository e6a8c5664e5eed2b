"""Combinations of settings that cannot work, found before anything is loaded or written."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fedsim.checks_aggregation import check_aggregation, check_least
from fedsim.checks_algorithm import algorithm_problems
from fedsim.checks_attack import check_attack
from fedsim.checks_communication import check_communication
from fedsim.checks_deployment import deployment_problems
from fedsim.checks_devices import check_devices
from fedsim.checks_engine import engine_problems
from fedsim.checks_personal import personal_problems
from fedsim.checks_privacy import check_privacy
from fedsim.checks_raw import finite, unknown_optimizer
from fedsim.models import ModelOptions
from fedsim.optimizers import ELEMENTWISE, build_optimizer, optimizer_classes, option_names
from fedsim.population import Natural
from fedsim.privacy.sampling import Fixed
from fedsim.scenario import Scenario
from fedsim.steering import steered

SANE_RATE = 1e30


def check_combinations(scenario: Scenario) -> list[str]:
    """Every impossible combination in the scenario, one line each, with the dotted path."""
    return [
        *_optimizer("algorithm.local", scenario.algorithm.local, list(ELEMENTWISE)),
        *_optimizer("algorithm.server", scenario.algorithm.server, sorted(optimizer_classes())),
        *check_privacy(scenario),
        *_cohort(scenario),
        *_scaling(scenario),
        *_weighting(scenario),
        *personal_problems(scenario),
        *_evaluation(scenario),
        *deployment_problems(scenario),
        *_max_grad_norm(scenario),
        *check_aggregation(scenario),
        *algorithm_problems(scenario),
        *_initial(scenario.model),
        *check_devices(scenario),
        *check_communication(scenario),
        *check_attack(scenario),
        *engine_problems(scenario.engine),
        *finite("algorithm.local.options", scenario.algorithm.local.options),
        *finite("algorithm.server.options", scenario.algorithm.server.options),
        *finite("algorithm.strategy_options", scenario.algorithm.strategy_options),
        *finite("model.settings", getattr(scenario.model, "settings", {})),
        *finite("data.settings", getattr(scenario.data, "settings", {})),
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
    # Defaults are never wrong, and the first optimizer that is built costs a second of imports.
    if not unknown and (settings.options or (settings.learning_rate or 0) > SANE_RATE):
        yield from _buildable(path, settings)


def _buildable(path: str, settings: Any) -> Iterator[str]:
    import torch

    parameter = torch.zeros(2)
    try:
        optimizer = build_optimizer(settings.optimizer, parameter, settings.learning_rate, settings.options)
        parameter.grad = torch.zeros(2)
        optimizer.step()
    except Exception as error:
        yield f"{path}.options = {settings.options}: {error}"


def _cohort(scenario: Scenario) -> Iterator[str]:
    clients = scenario.population.clients
    if clients is not None:  # else the data decides, and the set-up checks
        yield from check_clients(scenario, clients, "population.clients")


def check_clients(scenario: Scenario, clients: int, name: str = "training clients") -> Iterator[str]:
    """What so many clients cannot have, one line each: larger cohorts, and a delta of 1 / clients or more."""
    sampling, client = scenario.cohort.sampling, scenario.privacy.client
    yield from check_least(scenario, clients)
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
