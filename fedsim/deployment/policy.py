"""What a site's policy says to a scenario: reasons to refuse, found before anything of it is imported or trained."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.deployment.site_settings import Policy
from fedsim.models import MODELS, ModelOptions
from fedsim.privacy.plan import PrivacyPlan
from fedsim.scenario import Scenario


def scenario_refusals(policy: Policy, scenario: Scenario) -> Iterator[str]:
    """Reasons in the scenario's own values; nothing that it names has been imported or opened."""
    if policy.scenarios != "any" and scenario.digest not in policy.scenarios:
        yield f"scenario {scenario.digest} is not among those that the site agreed to"
    yield from _model(policy, scenario)
    privacy = scenario.privacy
    if privacy.example is None and privacy.client is None and not policy.without_privacy:
        yield "it protects nothing (policy.without_privacy is off)"
    if privacy.client is not None and privacy.client.placement == "server" and not policy.trust_server:
        yield "its client-level noise is added by the server, which would see updates without it (policy.trust_server)"
    if privacy.client is not None and privacy.client.projected is not None:
        yield "its noise is projected, scaled down to that of a larger deployment"
    for name in ("attack", "devices", "asynchronous"):
        if getattr(scenario, name, None) is not None:
            yield f"it has [{name}], which is for simulations"


def _model(policy: Policy, scenario: Scenario) -> Iterator[str]:
    model = scenario.model
    if policy.models == "built-in":
        if model.name not in MODELS:
            yield f'model "{model.name}" is code of somebody\'s own, and policy.models does not list it'
    elif model.name not in policy.models:
        yield f'model "{model.name}" is not among policy.models'
    if isinstance(model, ModelOptions) and model.initial is not None:
        yield "model.initial names a file, and a site opens no file that the server names"
    if getattr(scenario.algorithm, "strategy", None) is not None:
        yield "algorithm.strategy names code, and a site imports no code that the server names"


def plan_refusals(policy: Policy, plan: PrivacyPlan, client: int) -> Iterator[str]:
    """Reasons in the noise that protects this site."""
    events = [("example", plan.example.event(client))] if plan.example else []
    events += [("client", plan.client.event)] if plan.client else []
    for unit, event in events:
        if event.noise_multiplier < policy.min_noise_multiplier:
            yield (
                f"its {unit}-level noise multiplier {event.noise_multiplier:.4g} is below "
                f"policy.min_noise_multiplier = {policy.min_noise_multiplier:g}"
            )
