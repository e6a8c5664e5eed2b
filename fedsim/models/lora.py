"""Low-rank updates of frozen linear layers (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from fedsim.errors import BadInput
from fedsim.models.names import matching
from fedsim.models.options import Lora


class LoraLinear(nn.Module):
    """``W x + b + scale * B A x``; W and b are frozen, B starts at zero, so that the layer starts as it was."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, rng: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        # Plain linear layers, so that every trainer knows their per-example gradients.
        self.down = skip_init(nn.Linear, base.in_features, rank, bias=False)
        self.up = skip_init(nn.Linear, rank, base.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=rng)  # as torch's own linear layers
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """From ``[..., inputs]`` to ``[..., outputs]``."""
        return self.base(x) + self.scale * self.up(self.down(x))  # type: ignore[no-any-return]


def add_lora(module: nn.Module, lora: Lora, rng: torch.Generator) -> nn.Module:
    """The module with its target layers replaced; raises ``BadInput`` for targets that are not linear layers."""
    layers = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    targets = matching("model.lora.targets", lora.targets, layers)
    for name in (name for name in layers if name in targets):
        layer = layers[name]
        if uses[id(layer.weight)] > 1:
            raise BadInput(f'model.lora.targets: the weight of layer "{name}" is used by another layer too.')
        if lora.rank > min(layer.in_features, layer.out_features):
            raise BadInput(
                f"model.lora.rank = {lora.rank}: layer {name!r} is {layer.out_features} x {layer.in_features}, so its "
                f"rank is at most {min(layer.in_features, layer.out_features)}."
            )
        replacement = LoraLinear(layer, lora.rank, lora.scale, rng)
        if not name:
            return replacement
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, replacement)
    return module


def merged(module: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's parameters by name with every low-rank update added to its layer's weight, under that layer's names."""
    whole = dict(values)
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLinear):
            prefix = f"{name}." if name else ""
            up, down = (whole.pop(f"{prefix}{part}.weight") for part in ("up", "down"))
            update = layer.scale * (up.double() @ down.double())
            weight = whole.pop(f"{prefix}base.weight")
            whole[f"{prefix}weight"] = (weight.double() + update).to(weight.dtype)
            if layer.base.bias is not None:
                whole[f"{prefix}bias"] = whole.pop(f"{prefix}base.bias")
    return whole
