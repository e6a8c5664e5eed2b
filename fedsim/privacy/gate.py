"""The model gate: what may not be trained federated at all, and what not under example-level privacy."""

from __future__ import annotations

from torch import nn

from fedsim.errors import BadInput


def check_model(module: nn.Module, example_privacy: bool) -> None:
    """Raise ``BadInput`` for layers with running statistics or, under DP-SGD, that couple or store records."""
    for name, layer in module.named_modules():
        where = f"layer {name!r} ({type(layer).__name__})"
        if example_privacy and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise BadInput(
                f"[privacy.example] cannot protect a model with batch normalisation: {where} mixes the records of a "
                "batch, so that clipping one record's gradient does not bound its influence. Use torch.nn.GroupNorm."
            )
        if example_privacy and any(True for _ in layer.buffers(recurse=False)):
            raise BadInput(
                f"[privacy.example] cannot protect a model with buffers: {where} keeps values that are not parameters, "
                "which could store records without noise. Remove them or make them constants."
            )
        if getattr(layer, "track_running_stats", False):
            raise BadInput(
                f"The model's {where} keeps running statistics, which are not parameters and would not be aggregated. "
                "Use torch.nn.GroupNorm."
            )
