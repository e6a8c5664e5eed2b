"""A task: what is learnt from the data, its loss, and its metrics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.data import Dataset, Examples
from fedsim.data.dataset import Kind
from fedsim.errors import BadInput
from fedsim.models.build import Signature

EVALUATION_BATCH = 2048
# A batch of an evaluation is shorter where its outputs would be more values than this (16 MiB).
EVALUATION_VALUES = 2**22
PICTURES = 8


@dataclass(frozen=True)
class Assessment:
    """What is said about the final model: its metrics, and tables by name, each a list of rows."""

    metrics: dict[str, float]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class Objective(ABC):
    """What a model learns; its fields are the settings of ``[task]`` in a scenario."""

    kind: str
    # The labels that it is for; None for any.
    labels_kind: ClassVar[Kind | None]
    # What ``metrics`` gives and every round's line has, ``loss`` first; and which of them a reader asks for first.
    metric_names: ClassVar[tuple[str, ...]]
    main_metric: ClassVar[str]
    # The one that is compared over clients, each with few records; the main one if empty.
    client_metric: ClassVar[str] = ""
    # Whether ``pictures`` may show test examples themselves.
    shows_records: ClassVar[bool] = False

    def check(self, data: Dataset) -> None:
        """Raises ``BadInput`` if the objective is not for this data."""
        if self.labels_kind is not None and self.labels_kind != data.kind:
            raise BadInput(
                f'task.kind = "{self.kind}": it is for {self.labels_kind}, but the labels of this data are {data.kind}.'
            )

    def labels(self, examples: Examples) -> NDArray[Any]:
        """What is predicted ``[n, ...]``."""
        return examples.labels

    @abstractmethod
    def outputs(self, data: Dataset) -> tuple[int, ...]:
        """Shape of what the model returns for one example."""

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of every example on its own ``[n]``: a sum of these is the only loss trained on."""

    def gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Gradient of each example's own loss with respect to its outputs."""
        outputs = outputs.detach().requires_grad_()
        return torch.autograd.grad(self.losses(outputs, labels).sum(), outputs)[0]

    @abstractmethod
    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What the metrics are made of, some values of each example ``[n, values]``, the loss first."""

    @abstractmethod
    def metrics(self, measured: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """The metrics of examples from what ``measure`` gave ``[n, values]`` and their labels."""

    def assess(self, measured: NDArray[np.float64], labels: NDArray[Any], names: tuple[str, ...]) -> Assessment:
        """The same, and what else is said about the final model; ``names`` are those of the data."""
        return Assessment(self.metrics(measured, labels))

    def pictures(self, inputs: Tensor, outputs: Tensor) -> dict[str, Any] | None:
        """What of some test examples is worth looking at, as plain values; None for most tasks."""
        return None


@dataclass(frozen=True)
class Task:
    """An objective with a data set's examples as tensors on the training device."""

    objective: Objective
    data: Dataset
    features: Tensor
    labels: Tensor

    @classmethod
    def of(cls, objective: Objective, data: Dataset, device: torch.device) -> Task:
        """Training examples as tensors; on the CPU they share the data set's memory. Raises ``BadInput``."""
        objective.check(data)
        parts = data.train.features, objective.labels(data.train)
        features, labels = (torch.from_numpy(part).to(device) for part in parts)
        return cls(objective, data, features, labels)

    @property
    def signature(self) -> Signature:
        """What a model for this task takes and returns."""
        return Signature(self.data.shape, self.objective.outputs(self.data), self.data.vocabulary)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """See ``Objective``."""
        return self.objective.losses(outputs, labels)

    def gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """See ``Objective``."""
        return self.objective.gradient(outputs, labels)

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        """The test examples, on the training device for as long as the run lasts."""
        parts = self.data.test.features, self.objective.labels(self.data.test)
        features, labels = (torch.from_numpy(part).to(self.features.device) for part in parts)
        return features, labels

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """The metrics over the held-out test examples."""
        return self.objective.metrics(self.measure(module), self.objective.labels(self.data.test))

    @torch.inference_mode()
    def pictures(self, module: nn.Module) -> dict[str, Any] | None:
        """What is worth looking at of the first test examples, if anything."""
        module.eval()
        inputs = self._test[0][:PICTURES]
        return self.objective.pictures(inputs, module(inputs))

    @torch.inference_mode()
    def measure(self, module: nn.Module, part: slice = slice(None)) -> NDArray[np.float64]:
        """What the metrics are made of for each test example (or a ``part``) ``[n, values]``, in few large batches."""
        module.eval()
        features, labels = (tensor[part] for tensor in self._test)
        outputs = math.prod(self.objective.outputs(self.data))
        length = min(EVALUATION_BATCH, max(1, EVALUATION_VALUES // outputs))
        batches = zip(features.split(length), labels.split(length), strict=True)
        # What is measured stays on the device until the end, so that no batch waits for the one before.
        measured = torch.cat([self.objective.measure(module(x), y) for x, y in batches])
        return np.asarray(measured.double().cpu().numpy())
