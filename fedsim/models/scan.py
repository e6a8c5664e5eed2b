"""The recurrence of an LSTM layer, forward and backward by hand, with a rule of its own under ``torch.func.vmap``.

torch's fused LSTM has no such rule, and a loop of single operations is slow under vmap and, with a gradient for every
example, writes each step's outer products to memory. Here a step is one batched product for all clients, and the
recurrent weight's gradient one product after the last step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def scan(gates: Tensor, weight: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """All states ``[length, batch, hidden]`` and the last cell ``[batch, hidden]`` of an LSTM layer.

    ``gates`` ``[length, batch, 4 hidden]`` is what the input adds to each step's gates, in torch's order (input,
    forget, cell, output), ``weight`` ``[4 hidden, hidden]`` the recurrent one; ``state`` and ``cell`` are the first.
    """
    states, last, _, _ = _apply(_Scan, gates, weight, state, cell)
    return states, last


class _Scan(Function):
    """Shapes as in ``scan``, with any number of dimensions for clients before the batch."""

    @staticmethod
    def forward(gates: Tensor, weight: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        length, clients, (batch, width) = len(gates), gates.shape[1:-2], gates.shape[-2:]
        hidden, count = width // 4, math.prod(clients)
        # One copy, with each step's values together, which the steps then work in.
        opened = gates.reshape(length, count, batch, width).clone(memory_format=torch.contiguous_format)
        turned = weight.reshape(count, width, hidden).transpose(1, 2)
        h, c = state.reshape(count, batch, hidden), cell.reshape(count, batch, hidden)
        states, cells = (gates.new_empty(length, count, batch, hidden) for _ in range(2))
        for step in range(length):
            here = opened[step].baddbmm_(h, turned)
            here[..., : 2 * hidden].sigmoid_()
            here[..., 2 * hidden : 3 * hidden].tanh_()
            here[..., 3 * hidden :].sigmoid_()
            enter, keep, value, leave = here.chunk(4, -1)
            c = torch.mul(keep, c, out=cells[step]).addcmul_(enter, value)
            h = torch.mul(leave, c.tanh(), out=states[step])
        shaped = [own.view(length, *clients, batch, own.shape[-1]) for own in (states, opened, cells)]
        last = shaped[2][-1].clone() if length else cell.clone()
        return shaped[0], last, shaped[1], shaped[2]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        _, weight, state, cell = inputs
        states, _, opened, cells = output
        ctx.mark_non_differentiable(opened, cells)
        ctx.save_for_backward(weight, state, cell, states, opened, cells)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        weight, state, cell, states, opened, cells = ctx.saved_tensors
        gates, first, memory = _apply(_Backwards, grads[0], grads[1], weight, cell, opened, cells)
        before = torch.cat([state[None], states[:-1]])
        return gates, torch.einsum("l...bg,l...bh->...gh", gates, before), first, memory

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> Any:
        return _vmap(_Scan, info.batch_size, in_dims, tensors, ((1, 0, 0, 0), (1, 0, 1, 1)))


class _Backwards(Function):
    """Gradients of the gates, the first state and the first cell, from those of all states and of the last cell."""

    @staticmethod
    def forward(states: Tensor, last: Tensor, weight: Tensor, cell: Tensor, opened: Tensor, cells: Tensor) -> Any:
        hidden, count = cells.shape[-1], math.prod(cells.shape[1:-2])
        flat = (-1, count, *cells.shape[-2:])
        through_cell, through_state, keep = _slopes(opened, torch.cat([cell[None], cells[:-1]]), cells)
        dh, dc = torch.zeros_like(last).reshape(flat[1:]), last.reshape(flat[1:]).clone()
        result = opened.new_empty(len(opened), *flat[1:3], 4, hidden)
        weight, states = weight.reshape(count, 4 * hidden, hidden), states.reshape(flat)
        for step in reversed(range(len(cells))):
            dh = dh + states[step]
            slope = through_state[step].view(*flat[1:3], 2, hidden)
            dc = torch.addcmul(dc, dh, slope[..., 0, :])
            torch.mul(dc.unsqueeze(2), through_cell[step].view(*flat[1:3], 3, hidden), out=result[step, :, :, :3])
            torch.mul(dh, slope[..., 1, :], out=result[step, :, :, 3])
            dh = torch.bmm(result[step].view(*flat[1:3], -1), weight)
            dc = dc * keep[step].view(flat[1:])
        return result.view(opened.shape), dh.view(last.shape), dc.view(last.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept: it has no gradient of its own."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("an LSTM layer has no second derivatives here")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> Any:
        return _vmap(_Backwards, info.batch_size, in_dims, tensors, ((1, 0, 0, 0, 1, 1), (1, 0, 0)))


def _slopes(opened: Tensor, before: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a cell's gradient becomes at the first three gates, a state's at the cell and the last gate; what is kept.

    All steps at once: ``[length, ..., 3, hidden]``, ``[length, ..., 2, hidden]``, ``[length, ..., hidden]``.
    """
    enter, keep, value, leave = opened.chunk(4, -1)
    squashed = cells.tanh()
    through_cell = [value * enter * (1 - enter), before * keep * (1 - keep), enter * (1 - value.square())]
    through_state = [leave * (1 - squashed.square()), squashed * leave * (1 - leave)]
    return torch.stack(through_cell, -2), torch.stack(through_state, -2), keep


def _vmap(
    function: type[Function],
    count: int,
    dims: tuple[int | None, ...],
    tensors: tuple[Tensor, ...],
    places: tuple[tuple[int, ...], tuple[int, ...]],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """A larger batch where the weight is the same for all, else stacks; ``places`` is where a stack's dimension is.

    The weight is the one tensor without a batch: the second of ``_Scan`` and the third of ``_Backwards``.
    """
    weight = 1 if function is _Scan else 2
    if dims[weight] is None:
        folded = [
            own if at == weight else _leading(own, dim, count, -3).flatten(-3, -2)
            for at, (own, dim) in enumerate(zip(tensors, dims, strict=True))
        ]
        results = _apply(function, *folded)
        return tuple(own.unflatten(-2, (count, -1)) for own in results), tuple(own.dim() - 2 for own in results)
    stacked = [_leading(own, dim, count, at) for own, dim, at in zip(tensors, dims, places[0], strict=True)]
    return _apply(function, *stacked), places[1]


def _apply(function: type[Function], *tensors: Tensor) -> tuple[Tensor, ...]:
    return function.apply(*tensors)  # type: ignore[no-any-return]


def _leading(tensor: Tensor, dim: int | None, count: int, place: int) -> Tensor:
    """The mapped dimension, or a repeated one, at ``place``."""
    if dim is not None:
        return tensor.movedim(dim, place)
    added = tensor.unsqueeze(place)
    return added.expand(*(count if at == place % added.dim() else -1 for at in range(added.dim())))
