"""A model's parameters as one flat float32 vector, and back."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

NORMALISATIONS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,  # batch and instance normalisation
)


@dataclass(frozen=True)
class Layout:
    """Where each named parameter lies in the flat vector; ``normalising`` are those of normalisation layers."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    normalising: frozenset[str] = frozenset()

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of a module's trainable parameters, in ``named_parameters`` order."""
        named = [(name, tuple(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
        return cls(tuple(name for name, _ in named), tuple(shape for _, shape in named), _normalising(module))

    @property
    def sizes(self) -> list[int]:
        """Number of values of each parameter (1 for a 0-d parameter)."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Number of values of the whole model."""
        return sum(self.sizes)

    def mask(self, names: Collection[str]) -> Bool[Tensor, " params"]:
        """Which values of a flat vector belong to the parameters with these names."""
        parts = [torch.full((size,), name in names) for name, size in zip(self.names, self.sizes, strict=True)]
        return torch.cat(parts)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views ``[..., *shape]`` by name into flat vectors ``[..., params]``; nothing is copied."""
        lead = flat.shape[:-1]
        parts = flat.split(self.sizes, dim=-1)
        return {
            name: part.reshape(*lead, *shape) if lead else part.view(shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def flatten(self, tensors: dict[str, Tensor], lead: int = 0) -> Tensor:
        """Join named tensors ``[*lead dimensions, *shape]`` into vectors ``[*lead dimensions, params]``."""
        parts = [tensors[name] for name in self.names]
        return torch.cat([part.reshape(*part.shape[:lead], -1) for part in parts], dim=-1)


def _normalising(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that scale and shift what a normalisation layer gives."""
    layers = ((prefix, layer) for prefix, layer in module.named_modules() if isinstance(layer, NORMALISATIONS))
    return frozenset(f"{prefix}.{name}" for prefix, layer in layers for name, _ in layer.named_parameters())


def vector_of(module: nn.Module) -> Tensor:
    """The module's trainable parameters as a detached float32 vector ``[params]``."""
    named = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    return Layout.of(module).flatten(named).float().clone()


def bind_vector(module: nn.Module, flat: Tensor) -> None:
    """Make the module's trainable parameters views of ``flat`` ``[params]``: later writes to it show in the module."""
    views = Layout.of(module).views(flat)
    for name, parameter in module.named_parameters():
        if name in views:
            parameter.data = views[name]
