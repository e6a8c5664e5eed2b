"""Any Flower ``Strategy`` as the server's side: it is shown one reply per client, and its model becomes the run's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float
from torch import Tensor

from fedsim import strategy_state
from fedsim.algorithms import Algorithm
from fedsim.engines.inprocess import InProcessGrid
from fedsim.errors import BadInput, FedsimError
from fedsim.imports import load_object
from fedsim.messages import Rows, SharedArray, ensure_identity
from fedsim.params import Layout


def make_strategy(algorithm: Algorithm) -> Strategy:
    """The strategy that a scenario names, with its options; raises ``BadInput``."""
    assert algorithm.strategy is not None
    where = f'algorithm.strategy = "{algorithm.strategy}"'
    make = load_object("algorithm.strategy", algorithm.strategy)
    try:
        strategy = make(**algorithm.strategy_options)
    except Exception as error:
        raise BadInput(f"{where} could not be built from algorithm.strategy_options: {error}.") from error
    if not isinstance(strategy, Strategy):
        raise BadInput(f"{where} makes a {type(strategy).__name__}, not a flwr.serverapp.strategy.Strategy.")
    return strategy


class _Nodes(InProcessGrid):
    """A grid that only counts nodes: a strategy that prepares a round looks for as many as it waits for."""

    def __init__(self, count: int) -> None:
        super().__init__(ClientApp())
        self._count = count

    def get_node_ids(self) -> Iterable[int]:
        """Numbers from 1."""
        return range(1, self._count + 1)


class FlowerStrategy:
    """A Flower strategy between our clients and our model."""

    def __init__(self, algorithm: Algorithm, layout: Layout) -> None:
        self._strategy, self._layout, self._name = make_strategy(algorithm), layout, algorithm.strategy

    def aggregate(self, round_: int, params: Float[Tensor, " params"], rows: Rows) -> Float[Tensor, " params"] | None:
        """The way from the round's model to the strategy's, or None if it makes none; raises ``FedsimError``.

        Clients reply with their models after training under ``arrays`` and their weights as ``num-examples``.
        """
        ensure_identity()
        try:
            with _quiet():
                self._prepare(round_, params, len(rows.clients))
                arrays, _ = self._strategy.aggregate_train(round_, list(self._replies(params, rows)))
        except Exception as error:
            raise FedsimError(
                f'algorithm.strategy = "{self._name}" failed in round {round_}: {type(error).__name__}: {error}'
            ) from error
        return None if arrays is None else self._model(arrays).to(params.device) - params

    def state(self) -> dict[str, Tensor]:
        """What the strategy remembers, by name."""
        return strategy_state.saved(self._strategy)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take that back; raises ``FedsimError`` if it could not be saved whole."""
        strategy_state.restore(self._strategy, tensors, str(self._name))

    def _prepare(self, round_: int, params: Tensor, clients: int) -> None:
        """Let it take note of the round's model, as some do when they write the messages to clients."""
        wanted = (getattr(self._strategy, name, 1) for name in ("min_available_nodes", "min_train_nodes"))
        nodes = _Nodes(max(clients, *wanted))
        list(self._strategy.configure_train(round_, self._record(params), ConfigRecord(), nodes))

    def _replies(self, params: Tensor, rows: Rows) -> Iterator[Message]:
        for client, weight, report in zip(rows.clients.tolist(), rows.weights.tolist(), rows.reports, strict=True):
            # Nodes are numbered from 1.
            asked = Message(RecordDict(), dst_node_id=client + 1, message_type="train")
            weights = MetricRecord({"num-examples": int(weight) if weight.is_integer() else weight})
            arrays = self._record(params + torch.from_numpy(report).to(params.device))
            yield Message(RecordDict({"arrays": arrays, "metrics": weights}), reply_to=asked)

    def _record(self, params: Tensor) -> ArrayRecord:
        """A model by its parameters' names, with arrays of its own."""
        views = self._layout.views(params.detach().clone())
        return ArrayRecord({name: SharedArray(view.cpu().numpy()) for name, view in views.items()})

    def _model(self, arrays: ArrayRecord) -> Tensor:
        found: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
        expected = dict(zip(self._layout.names, self._layout.shapes, strict=True))
        if {name: array.shape for name, array in found.items()} != expected:
            raise FedsimError(
                f'algorithm.strategy = "{self._name}" returned a model of other parameters than it was given.'
            )
        return self._layout.flatten({name: torch.from_numpy(np.array(found[name], np.float32)) for name in expected})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that Flower's strategies log in every round."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
