"""Attacks that cannot be, or that would say something wrong about privacy or robustness."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.attacks.label_flip import LabelFlip
from fedsim.privacy.sampling import Fixed
from fedsim.scenario import Scenario


def check_attack(scenario: Scenario) -> Iterator[str]:
    """Impossible combinations with ``[attack]``, one line each, with the dotted path."""
    attack = scenario.attack
    if attack is None:
        return
    where = f'attack.kind = "{attack.kind}"'
    if attack.for_classes and scenario.task is not None and scenario.task.kind != "classification":
        yield f'{where}: it changes what classes records are in, so it needs task.kind = "classification"'
    if scenario.asynchronous is not None and attack.colludes:
        yield (
            f"{where}: its attackers agree on what they send in a round, but in an asynchronous run few start "
            "together, and one that is alone is honest; use another attack, or leave out [asynchronous]"
        )
    if isinstance(attack, LabelFlip):
        yield from _label_flip(attack)
    yield from _client_privacy(scenario, where)


def _label_flip(attack: LabelFlip) -> Iterator[str]:
    if (attack.source is None) != (attack.target is None):
        yield "attack.source, attack.target: give both, or neither to flip every class"
    elif attack.source is not None and attack.source == attack.target:
        yield f"attack.target = {attack.target}: is the source itself, so nothing would be flipped"


def _client_privacy(scenario: Scenario, where: str) -> Iterator[str]:
    attack, client = scenario.attack, scenario.privacy.client
    if attack is None or client is None:
        return
    if client.placement == "client" and attack.tampers:
        yield (
            f'{where}: with privacy.client.placement = "client" a hostile client would neither clip nor noise what it '
            "sends, and a server that sees noised updates cannot tell; simulated ones that do would look harmless. "
            'Use placement = "server", where the server clips every update, or an attack on records'
        )
    elif attack.colludes and client.relation == "replace-one" and isinstance(scenario.cohort.sampling, Fixed):
        yield (
            f"{where}: in a cohort of fixed size the place of one client decides how many attackers collude, and so "
            'what all of them send; the amplification that relation "replace-one" is accounted with does not hold. Use '
            'relation = "zero-out"'
        )
