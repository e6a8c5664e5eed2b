"""Layers of torch in a user's module that the trainers cannot use, and the same layers made of linear ones."""

from __future__ import annotations

from torch import nn

from fedsim.errors import BadInput
from fedsim.models.attention import MultiheadAttention
from fedsim.models.layers import Dropout
from fedsim.models.recurrent import LSTM


def replace_layers(module: nn.Module, name: str) -> None:
    """Swap ``nn.Dropout``, ``nn.LSTM`` and ``nn.MultiheadAttention`` at every depth for ours, with the same weights.

    torch's dropout draws from its global generator; its LSTM cannot be mapped over clients (vmap), and for neither
    LSTM nor attention does Opacus have gradients of single examples. ``name`` is the model's, for the message of
    ``BadInput``, raised where a layer has options that ours lacks.
    """
    _replace(module, name, {})


def _replace(module: nn.Module, name: str, made: dict[nn.Module, nn.Module]) -> None:
    for key, child in list(module._modules.items()):  # not named_children, which skips a layer that is there twice
        if child is None:
            continue
        if isinstance(child, nn.Dropout):
            setattr(module, key, Dropout(child.p))  # one for each place, as each has draws of its own
        elif type(child) in (nn.LSTM, nn.MultiheadAttention):
            made[child] = made.get(child) or _ours(child, name)
            setattr(module, key, made[child])
        else:
            _replace(child, name, made)


def _ours(layer: nn.Module, name: str) -> nn.Module:
    if isinstance(layer, nn.LSTM):
        if layer.proj_size:
            _refuse(name, "a torch.nn.LSTM with proj_size")
        return LSTM.of(layer)
    assert isinstance(layer, nn.MultiheadAttention)
    if layer.bias_k is not None or layer.add_zero_attn:
        _refuse(name, "a torch.nn.MultiheadAttention with add_bias_kv or add_zero_attn")
    return MultiheadAttention.of(layer)


def _refuse(name: str, what: str) -> None:
    raise BadInput(
        f'model.name = "{name}" has {what}, for which the trainers have no gradients of single clients and examples. '
        "Leave the option out."
    )
