"""Transfer: a model that starts from saved weights, of which only a part trains; and the whole model again."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from fedsim.errors import BadInput
from fedsim.models.initial import load_initial, sha256_of
from fedsim.models.lora import add_lora, merged
from fedsim.models.names import listed, matching
from fedsim.models.options import ModelOptions
from fedsim.params import Layout
from fedsim.seeding import Stream, torch_generator

Settings = TypeVar("Settings")


def pinned(settings: Settings) -> Settings:
    """The settings with the SHA-256 of the file that they start from; raises ``BadInput`` if it cannot be read."""
    if not isinstance(settings, ModelOptions) or settings.initial is None or settings.initial_sha256 is not None:
        return settings
    return replace(settings, initial_sha256=sha256_of(settings.initial))


def transfer_of(settings: object) -> dict[str, Any] | None:
    """What a model starts from, and what of it does not train, as plain values; None where all starts at random."""
    if not isinstance(settings, ModelOptions):
        return None
    names = ("initial", "initial_sha256", "initial_skip", "freeze", "lora")
    given = {name: value for name in names if (value := getattr(settings, name)) is not None}
    if settings.lora is not None:
        given["lora"] = asdict(settings.lora)
    return given or None


def adapt(module: nn.Module, options: ModelOptions, seed: int) -> nn.Module:
    """Load what the options start from, freeze what they freeze, add what they add; raises ``BadInput``."""
    if options.initial is not None:
        load_initial(module, options)
    names = [name for name, _ in module.named_parameters()]
    frozen = matching("model.freeze", options.freeze or (), names)
    if options.lora is not None:
        frozen |= set(names) - matching("model.lora.train", options.lora.train or (), names)
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if options.lora is not None:
        # The stream of the first layers' weights goes on in a part of its own, which does not repeat them.
        module = add_lora(module, options.lora, torch_generator(seed, Stream.INIT, 1))
    if options.freeze and not any(p.requires_grad for p in module.parameters()):
        raise BadInput(f"model.freeze = {list(options.freeze)} leaves nothing to train: {listed(sorted(frozen))}.")
    return module


def whole_model(module: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """All parameters by name, frozen ones too, on the CPU: ``flat`` ``[params]`` for what trains, updates merged."""
    values = {name: parameter.detach().cpu() for name, parameter in module.named_parameters()}
    return merged(module, values | Layout.of(module).views(flat.cpu()))
