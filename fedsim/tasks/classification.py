"""Classification: cross-entropy and accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fedsim.data import Dataset

EVALUATION_BATCH = 2048


@dataclass(frozen=True)
class Classification:
    """A data set's examples as tensors on the training device, its loss and its metrics."""

    data: Dataset
    features: Tensor
    labels: Tensor
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> Classification:
        """Training examples as tensors; on the CPU they share the data set's memory."""
        return cls(
            data, torch.from_numpy(data.train.features).to(device), torch.from_numpy(data.train.labels).to(device)
        )

    @property
    def outputs(self) -> int:
        """Number of values the model returns per example."""
        return len(self.data.classes)

    @staticmethod
    def losses(outputs: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cross-entropy of every example on its own: a sum of these is the only loss trained on."""
        return functional.cross_entropy(outputs, labels, reduction="none")

    @staticmethod
    def gradient(outputs: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n classes"]:
        """Gradient of each example's own loss with respect to its outputs: the probabilities, less 1 at the label."""
        # Over the first dimension softmax is vectorised, over a short last one it is not (eight times slower).
        found = torch.softmax(outputs.t(), 0).t().contiguous()
        return found.scatter_add_(1, labels.unsqueeze(1), found.new_full((1, 1), -1.0).expand(len(labels), 1))

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        """The test examples, on the training device for as long as the run lasts."""
        device = self.features.device
        return torch.from_numpy(self.data.test.features).to(device), torch.from_numpy(self.data.test.labels).to(device)

    @torch.inference_mode()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Mean loss and accuracy over the held-out test examples, in few large batches."""
        module.eval()
        features, labels = self._test
        # Both sums stay on the device until the end, so that no batch waits for the one before.
        sums = torch.zeros(2, dtype=torch.float64, device=features.device)
        for x, y in zip(features.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            outputs = module(x)
            sums += torch.stack([self.losses(outputs, y).double().sum(), (outputs.argmax(1) == y).double().sum()])
        loss, accuracy = (sums / len(labels)).tolist()
        return {"loss": loss, "accuracy": accuracy}
