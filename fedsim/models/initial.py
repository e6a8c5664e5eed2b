"""Weights to start from, read from a safetensors file (never a pickle, which could run code)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fedsim.errors import BadInput
from fedsim.models.names import listed, matching
from fedsim.models.options import ModelOptions
from fedsim.paths import expanded


def sha256_of(path: str) -> str:
    """SHA-256 of a file's content, 64 hex digits; raises ``BadInput`` if it cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def load_initial(module: nn.Module, options: ModelOptions) -> None:
    """Copy the file's values into the module's parameters; raises ``BadInput`` if they do not fit."""
    assert options.initial is not None
    stored = _tensors(options.initial, options.initial_sha256)
    own = {name: parameter.data for name, parameter in module.named_parameters()}
    skipped = matching("model.initial_skip", options.initial_skip or (), {**own, **stored})
    wanted = {name for name in own if name not in skipped}
    _check(options.initial, {name: own[name] for name in wanted}, stored, set(stored) - skipped)
    for name in wanted:
        own[name].copy_(stored[name])


def _content(path: str) -> bytes:
    try:
        return expanded("model.initial", path).read_bytes()
    except OSError as error:
        raise BadInput(
            f'model.initial = "{path}" cannot be read: {error.strerror}. A relative path is relative to the current '
            f"folder, {Path.cwd()}."
        ) from error


def _tensors(path: str, digest: str | None) -> dict[str, Tensor]:
    content = _content(path)
    found = hashlib.sha256(content).hexdigest()
    if digest is not None and digest != found:
        raise BadInput(
            f'model.initial = "{path}" holds something else than this run started from: its SHA-256 is {found}, '
            f"model.initial_sha256 is {digest}."
        )
    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadInput(
            f'model.initial = "{path}" is not a safetensors file ({error}). Other formats can run code when they are '
            "read; convert it with safetensors.torch.save_file."
        ) from error
    return tensors


def _check(path: str, own: dict[str, Tensor], stored: dict[str, Tensor], used: set[str]) -> None:
    """Raise one ``BadInput`` for everything that does not fit."""
    both = sorted(own.keys() & used)
    misshapen = [
        f"{name} (file {list(stored[name].shape)}, model {list(own[name].shape)})"
        for name in both
        if stored[name].shape != own[name].shape
    ]
    bad = [name for name in both if not stored[name].is_floating_point() or not torch.isfinite(stored[name]).all()]
    parts = [
        f"{what}: {listed(names)}"
        for what, names in (
            ("missing from the file", sorted(own.keys() - used)),
            ("in the file only", sorted(used - own.keys())),
            ("of another shape", misshapen),
            ("not finite floating-point numbers", bad),
        )
        if names
    ]
    if parts:
        raise BadInput(
            f'model.initial = "{path}" does not fit the model. {"; ".join(parts)}. Parameters that shall not come from '
            'the file are named in model.initial_skip, for example initial_skip = ["head.*"].'
        )
    if not own:
        raise BadInput(f'model.initial = "{path}": model.initial_skip leaves nothing to be read from it.')
