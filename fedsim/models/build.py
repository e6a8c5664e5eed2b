"""How a model is built: initialised from the scenario's seed and tried on one example."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedsim.errors import BadInput
from fedsim.models.layers import dropout_layers, initialise
from fedsim.models.options import ModelOptions
from fedsim.models.replace import replace_layers
from fedsim.models.transfer import adapt
from fedsim.seeding import Stream, torch_generator


@dataclass(frozen=True)
class Signature:
    """The shapes of what a model takes and returns for one example; it takes ``vocabulary`` tokens, or numbers if 0."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    vocabulary: int = 0

    def zeros(self, examples: int, device: torch.device | None = None) -> Tensor:
        """Some examples of zeros."""
        dtype = torch.int64 if self.vocabulary else torch.float32
        return torch.zeros(examples, *self.inputs, dtype=dtype, device=device)


class ModelSettings(Protocol):
    """What an entry of the table of models offers; those with ``ModelOptions`` can start from saved weights too."""

    @property
    def name(self) -> str:
        """The model's name in the table, or its import path."""

    def build(self, signature: Signature) -> nn.Module:
        """A module from ``[batch, *inputs]`` to ``[batch, *outputs]``."""


def check_numbers(name: str, signature: Signature) -> None:
    """Raise ``BadInput`` if the examples are tokens, or each needs more than one vector of outputs."""
    if signature.vocabulary:
        raise BadInput(
            f'model.name = "{name}" takes numbers; an example here is {list(signature.inputs)} tokens out of '
            f'{signature.vocabulary}. Use "lstm" or "transformer".'
        )
    if len(signature.outputs) != 1:
        raise BadInput(
            f'model.name = "{name}" returns one vector per example; the task needs {list(signature.outputs)}.'
        )


def check_image(name: str, signature: Signature) -> tuple[int, ...]:
    """The shape ``[channels, height, width]`` of an example; raises ``BadInput`` if it is none."""
    check_numbers(name, signature)
    if len(signature.inputs) != 3:
        raise BadInput(
            f'model.name = "{name}" needs images [channels, height, width]; an example here is '
            f"{list(signature.inputs)}."
        )
    return signature.inputs


def build_model(settings: ModelSettings, signature: Signature, seed: int) -> nn.Module:
    """The initialised module in float32; raises ``BadInput`` if one example does not pass through it.

    Layers of torch draw their first weights from the global generator; it is forked and seeded here, in this one
    place, and comes back as it was.
    """
    rng = torch_generator(seed, Stream.INIT)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(rng.get_state())
        try:
            module = settings.build(signature).float()
        except (RuntimeError, MemoryError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f'model.name = "{settings.name}" cannot be built; is it too large? {reason}.') from error
    replace_layers(module, settings.name)
    initialise(module, getattr(settings, "initialisation", "default"), rng)
    if isinstance(settings, ModelOptions):
        module = adapt(module, settings, seed)
    _try_one_example(module, settings.name, signature)
    return module


def _try_one_example(module: nn.Module, name: str, signature: Signature) -> None:
    if not any(p.requires_grad for p in module.parameters()):
        raise BadInput(f'model.name = "{name}" has no trainable parameter.')
    module.eval()
    try:
        with torch.no_grad():
            result = module(signature.zeros(2))
            draws, passes = _training_pass(module, signature)
    except Exception as error:
        raise BadInput(
            f'model.name = "{name}" does not accept examples of {list(signature.inputs)}: {error}.'
        ) from error
    if not isinstance(result, Tensor) or tuple(result.shape) != (2, *signature.outputs):
        wanted = ", ".join(str(size) for size in (2, *signature.outputs))
        shown = list(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise BadInput(f'model.name = "{name}" returns {shown} for 2 examples; the task needs [{wanted}].')
    if draws:
        raise BadInput(
            f'model.name = "{name}" draws from torch\'s global random generator in training, so a run could not be '
            "repeated. For dropout use torch.nn.Dropout, which gets its draws from the client's own stream."
        )
    if passes:
        raise BadInput(
            f'model.name = "{name}" passes a torch.nn.Dropout {passes} times; each needs a layer of its own, used once.'
        )


def _training_pass(module: nn.Module, signature: Signature) -> tuple[bool, str]:
    """Whether a pass in training mode uses the global generator; how often a dropout layer is used, if not once."""
    trial = copy.deepcopy(module).train()
    layers, calls = dropout_layers(trial), Counter[nn.Module]()
    for layer in layers:
        layer.mask = torch.ones(())
        layer.register_forward_pre_hook(lambda layer, _: calls.update([layer]))
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        trial(signature.zeros(2))
        draws = not torch.equal(before, torch.get_rng_state())
    return draws, next((str(calls[layer]) for layer in layers if calls[layer] != 1), "")
