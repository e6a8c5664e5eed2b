"""Attention made of linear layers, which both torch trainers can give gradients for every client and every example.

Source: Vaswani et al. 2017, arXiv 1706.03762.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.models.layers import ACTIVATIONS, Activation, Dropout


class MultiheadAttention(nn.Module):
    """What ``torch.nn.MultiheadAttention`` computes; ``add_bias_kv`` and ``add_zero_attn`` are missing."""

    # torch's TransformerEncoderLayer asks for these before it takes its fused path, which ours must not.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.query = nn.Linear(embed_dim, embed_dim, bias)
        self.key = nn.Linear(kdim or embed_dim, embed_dim, bias)
        self.value = nn.Linear(vdim or embed_dim, embed_dim, bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias)
        self.drop = Dropout(dropout)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.query, self.key, self.value, self.out_proj) if bias else ():
            nn.init.zeros_(layer.bias)

    @classmethod
    def of(cls, layer: nn.MultiheadAttention) -> MultiheadAttention:
        """The same layer, with the values of its parameters."""
        bias, places = layer.in_proj_bias, (layer.kdim, layer.vdim, layer.batch_first)
        with torch.device("meta"):  # all of its parameters are replaced
            made = cls(layer.embed_dim, layer.num_heads, layer.dropout, bias is not None, *places)
        packed = layer.in_proj_weight
        apart = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
        for number, own in enumerate((made.query, made.key, made.value)):
            weight = apart[number] if packed is None else packed.chunk(3)[number]
            own.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
            own.bias = (
                None if bias is None else nn.Parameter(bias.detach().chunk(3)[number].clone(), bias.requires_grad)
            )
        made.out_proj.weight, made.out_proj.bias = layer.out_proj.weight, layer.out_proj.bias
        return made.train(layer.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Results and, if wanted, the weights, in the shapes of ``torch.nn.MultiheadAttention``.

        Masks are True where attention is not allowed, or are added to its logits.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal needs attn_mask")
        single = query.dim() == 2
        if single:
            query, key, value = (own.unsqueeze(0) for own in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (own.transpose(0, 1) for own in (query, key, value))
        masks = _joint(len(query), self.num_heads, attn_mask, key_padding_mask)
        mixed, weights = self._attend(query, key, value, masks)
        shown = None if not need_weights else weights.mean(1) if average_attn_weights else weights
        if single:
            return mixed.squeeze(0), None if shown is None else shown.squeeze(0)
        return mixed if self.batch_first else mixed.transpose(0, 1), shown

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Results ``[batch, length, embed_dim]`` and weights ``[batch, heads, length, keys]``."""
        q, k, v = (self._heads(own) for own in (self.query(query), self.key(key), self.value(value)))
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        for mask in masks:
            logits = logits.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        weights = self.drop(logits.softmax(-1))
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2)), weights

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return heads


def _joint(batch: int, heads: int, pairs: Tensor | None, keys: Tensor | None) -> list[Tensor]:
    """The masks, each so that it spreads over ``[batch, heads, length, keys]``."""
    found = [] if keys is None else [keys[:, None, None, :]]
    if pairs is not None:
        found.append(pairs if pairs.dim() == 2 else pairs.unflatten(0, (batch, heads)))
    return found


class EncoderLayer(nn.Module):
    """What ``torch.nn.TransformerEncoderLayer(norm_first=True, batch_first=True)`` computes, without dropping weights.

    Normalising first trains without a warm-up of the learning rate (Xiong et al. 2020, arXiv 2002.04745).
    """

    def __init__(self, width: int, heads: int, feedforward: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.activation = ACTIVATIONS[activation]()
        self.dropout1, self.dropout, self.dropout2 = (Dropout(dropout) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """From ``[batch, length, width]`` to the same; ``mask`` is of pairs of positions, ``padding`` of positions."""
        inner = self.norm1(x)
        mixed, _ = self.self_attn(inner, inner, inner, padding, need_weights=False, attn_mask=mask)
        x = x + self.dropout1(mixed)
        inner = self.dropout(self.activation(self.linear1(self.norm2(x))))
        result: Tensor = x + self.dropout2(self.linear2(inner))
        return result
