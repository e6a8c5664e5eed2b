"""Classification: cross-entropy and accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedsim.data import Dataset
from fedsim.data.dataset import Kind
from fedsim.settings import section
from fedsim.tasks.task import Objective


@section
@dataclass(frozen=True)
class Classification(Objective):
    """One of several classes, by cross-entropy."""

    kind: Literal["classification"] = "classification"
    labels_kind: ClassVar[Kind | None] = "classes"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    def outputs(self, data: Dataset) -> tuple[int, ...]:
        """One value for each class."""
        return (len(data.names),)

    def losses(self, outputs: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cross-entropy of every example on its own: a sum of these is the only loss trained on."""
        return functional.cross_entropy(outputs, labels, reduction="none")

    def gradient(self, outputs: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n classes"]:
        """The probabilities, less 1 at the label."""
        # Over the first dimension softmax is vectorised, over a short last one it is not (eight times slower).
        found = torch.softmax(outputs.t(), 0).t().contiguous()
        return found.scatter_add_(1, labels.unsqueeze(1), found.new_full((1, 1), -1.0).expand(len(labels), 1))

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss, and whether the class is right."""
        return torch.stack([self.losses(outputs, labels), (outputs.argmax(1) == labels).float()], dim=1)

    def metrics(self, measured: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """Mean loss and accuracy."""
        loss, accuracy = measured.mean(axis=0).tolist()
        return {"loss": loss, "accuracy": accuracy}
