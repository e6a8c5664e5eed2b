"""Combinations of settings that cannot work, found before anything is loaded or written."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any

from fedsim.optimizers import ELEMENTWISE, build_optimizer, optimizer_classes, option_names
from fedsim.privacy.sampling import Fixed
from fedsim.scenario import ClientPrivacy, ExamplePrivacy, Scenario


def check_combinations(scenario: Scenario) -> list[str]:
    """Every impossible combination in the scenario, one line each, with the dotted path."""
    return [
        *_optimizer("algorithm.local", scenario.algorithm.local, list(ELEMENTWISE)),
        *_optimizer("algorithm.server", scenario.algorithm.server, sorted(optimizer_classes())),
        *_privacy("privacy.example", scenario.privacy.example),
        *_privacy("privacy.client", scenario.privacy.client),
        *_cohort(scenario),
        *_weighting(scenario),
        *_finite("algorithm.local.options", scenario.algorithm.local.options),
        *_finite("algorithm.server.options", scenario.algorithm.server.options),
        *_finite("model.settings", getattr(scenario.model, "settings", {})),
    ]


def _optimizer(path: str, settings: Any, valid: list[str]) -> Iterator[str]:
    if settings.optimizer not in valid:
        near = difflib.get_close_matches(settings.optimizer, valid, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"valid: {', '.join(valid)}"
        yield f'{path}.optimizer = "{settings.optimizer}": unknown optimizer ({hint})'
        return
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
        yield f"{path}: give exactly one of noise_multiplier and target_epsilon"
    if settings.noise_multiplier == 0:
        yield (
            f"{path}.noise_multiplier = 0.0: without noise there is no guarantee (epsilon is infinite); "
            f"leave out [{path}] to run without privacy"
        )
    for key in ("target_epsilon", "budget"):
        value = getattr(settings, key)
        if value is not None and value > 50:
            yield f"{path}.{key} = {value}: an epsilon above 50 guarantees nothing in practice; leave out [{path}]"
    if settings.target_epsilon is not None and settings.budget is not None:
        yield f"{path}.budget: target_epsilon is already the budget; give one of them"


def _cohort(scenario: Scenario) -> Iterator[str]:
    sampling, clients = scenario.cohort.sampling, scenario.population.clients
    if isinstance(sampling, Fixed) and sampling.size > clients:
        yield f"cohort.sampling.size = {sampling.size}: there are only population.clients = {clients}"
    client = scenario.privacy.client
    if client is not None and client.delta >= 1 / clients:
        yield (
            f"privacy.client.delta = {client.delta}: must be below 1 / population.clients = {1 / clients:.3g}; "
            "at or above that, publishing one client's data whole would count as private"
        )


def _weighting(scenario: Scenario) -> Iterator[str]:
    algorithm = scenario.algorithm
    if scenario.privacy.client is None:
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
