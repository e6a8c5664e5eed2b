"""An LSTM made of linear layers, which both torch trainers can give gradients for every client and every example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.models.layers import Dropout
from fedsim.models.scan import scan

State = tuple[Tensor, Tensor]
_MAPPED = ContextVar("mapped", default=False)


@contextmanager
def as_if_mapped() -> Iterator[None]:
    """Within it an LSTM computes as it does where clients or examples are mapped over: without torch's own kernel."""
    token = _MAPPED.set(True)
    try:
        yield
    finally:
        _MAPPED.reset(token)


class LSTM(nn.Module):
    """What ``torch.nn.LSTM`` computes, with its arguments (Hochreiter and Schmidhuber 1997).

    Of its arguments ``proj_size`` is missing, and packed sequences are not taken.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias = bool(options.pop("bias", True))
        self.batch_first = bool(options.pop("batch_first", False))
        self.bidirectional = bool(options.pop("bidirectional", False))
        self.dropout = float(options.pop("dropout", 0.0))
        if options:
            raise TypeError(f"an LSTM here has no argument {', '.join(options)}")
        directions = 2 if self.bidirectional else 1
        sizes = [input_size] + [directions * hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(
            LSTMCell(size, hidden_size, self.bias, turned) for size in sizes for turned in range(directions)
        )
        self.drops = nn.ModuleList(Dropout(self.dropout) for _ in range(num_layers - 1))

    @classmethod
    def of(cls, layer: nn.LSTM) -> LSTM:
        """The same layer, with the same parameters."""
        options = {key: getattr(layer, key) for key in ("bias", "batch_first", "dropout", "bidirectional")}
        with torch.device("meta"):  # all of its parameters are replaced
            made = cls(layer.input_size, layer.hidden_size, layer.num_layers, **options)
        endings = [f"l{number}{end}" for number in range(layer.num_layers) for end in ("", "_reverse")]
        for cell, ending in zip(made.cells, endings[:: 1 if layer.bidirectional else 2], strict=True):
            for own, name in ((cell.inputs, "ih"), (cell.states, "hh")):
                own.weight = getattr(layer, f"weight_{name}_{ending}")  # type: ignore[union-attr]
                own.bias = getattr(layer, f"bias_{name}_{ending}") if layer.bias else None  # type: ignore[union-attr]
        return made.train(layer.training)

    def flatten_parameters(self) -> None:
        """Nothing: there is no fused kernel whose memory would have to be in order."""

    def forward(self, x: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """States of every step, and each layer's last state and cell, in the shapes of ``torch.nn.LSTM``."""
        single = x.dim() == 2
        if single:
            x, hx = x.unsqueeze(0), hx and (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        elif not self.batch_first:
            x = x.transpose(0, 1)
        x, last = self._layers(x, hx)
        if single:
            return x.squeeze(0), (last[0].squeeze(1), last[1].squeeze(1))
        return x if self.batch_first else x.transpose(0, 1), last

    def _layers(self, x: Tensor, hx: State | None) -> tuple[Tensor, State]:
        if hx is None:
            zeros = x.new_zeros(len(self.cells), len(x), self.hidden_size)
            hx = (zeros, zeros)
        last: list[State] = []
        directions = len(self.cells) // self.num_layers
        for number in range(self.num_layers):
            x = self.drops[number - 1](x) if number else x
            found = []
            for at in range(number * directions, (number + 1) * directions):
                states, own = self.cells[at](x, (hx[0][at], hx[1][at]))
                found.append(states)
                last.append(own)
            x = torch.cat(found, 2) if len(found) > 1 else found[0]
        return x, (torch.stack([h for h, _ in last]), torch.stack([c for _, c in last]))


class LSTMCell(nn.Module):
    """One layer in one direction, over whole sequences; ``turned`` reads them from their ends."""

    def __init__(self, inputs: int, hidden: int, bias: bool = True, turned: bool | int = False) -> None:
        super().__init__()
        self.inputs, self.states = nn.Linear(inputs, 4 * hidden, bias), nn.Linear(hidden, 4 * hidden, bias)
        self.turned = bool(turned)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, x: Tensor, first: State) -> tuple[Tensor, State]:
        """States ``[batch, length, hidden]``, and the last state and cell, from ``x`` ``[batch, length, inputs]``."""
        x = x.flip(1) if self.turned else x
        if self._fusible:
            states, last = self._fused(x, first)
        else:
            # Opacus sees what goes through a layer by its hooks, so every step must go through it then; and the scan
            # knows a plain linear layer's weights only, not one with a low-rank update.
            scanned = type(self.states) is nn.Linear and not self.states._forward_hooks
            steps = self._scan if scanned else self._steps
            states, cell = steps(self.inputs(x).transpose(0, 1), *first)
            states, last = states.transpose(0, 1), (states[-1], cell)
        return states.flip(1) if self.turned else states, last

    @property
    def _fusible(self) -> bool:
        """Whether torch's own kernel may run: nobody maps over clients or examples, or looks at single layers."""
        if _MAPPED.get() or torch._C._are_functorch_transforms_active():
            return False
        plain = type(self.inputs) is nn.Linear and type(self.states) is nn.Linear
        return plain and not self.states._forward_hooks

    def _fused(self, x: Tensor, first: State) -> tuple[Tensor, State]:
        biased = self.states.bias is not None
        weights = [self.inputs.weight, self.states.weight, self.inputs.bias, self.states.bias][: 4 if biased else 2]
        state, cell = (part.unsqueeze(0) for part in first)
        states, state, cell = torch._VF.lstm(x, (state, cell), weights, biased, 1, 0.0, self.training, False, True)
        return states, (state[0], cell[0])

    def _scan(self, gates: Tensor, state: Tensor, cell: Tensor) -> State:
        gates = gates if self.states.bias is None else gates + self.states.bias
        return scan(gates, self.states.weight, state, cell)

    def _steps(self, gates: Tensor, state: Tensor, cell: Tensor) -> State:
        found = []
        for inputs in gates:
            enter, keep, value, leave = (inputs + self.states(state)).chunk(4, 1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * value.tanh()
            state = leave.sigmoid() * cell.tanh()
            found.append(state)
        return torch.stack(found), cell
