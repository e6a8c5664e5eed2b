"""A task: what is learnt from the data, its loss, and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
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


class Objective(ABC):
    """What a model learns; its fields are the settings of ``[task]`` in a scenario."""

    kind: str
    # The labels that it is for; None for any.
    labels_kind: ClassVar[Kind | None]
    # What every round's line has, ``loss`` first; ``metrics`` may give more.
    metric_names: ClassVar[tuple[str, ...]]

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
        wanted = objective.labels_kind
        if wanted is not None and wanted != data.kind:
            raise BadInput(
                f'task.kind = "{objective.kind}": it is for {wanted}, but the labels of this data are {data.kind}.'
            )
        labels = torch.from_numpy(objective.labels(data.train)).to(device)
        return cls(objective, data, torch.from_numpy(data.train.features).to(device), labels)

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
    def measure(self, module: nn.Module) -> NDArray[np.float64]:
        """What the metrics are made of for each test example ``[n, values]``, in few large batches."""
        module.eval()
        features, labels = self._test
        batches = zip(features.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)
        # What is measured stays on the device until the end, so that no batch waits for the one before.
        measured = torch.cat([self.objective.measure(module(x), y) for x, y in batches])
        return np.asarray(measured.double().cpu().numpy())
