"""Classification: cross-entropy and accuracy; at the end class by class, and calibration."""

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
from fedsim.tasks.scores import auroc, calibration_error, class_scores
from fedsim.tasks.task import Assessment, Objective


@section
@dataclass(frozen=True)
class Classification(Objective):
    """One of several classes, by cross-entropy."""

    kind: Literal["classification"] = "classification"
    labels_kind: ClassVar[Kind | None] = "classes"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    main_metric: ClassVar[str] = "accuracy"

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
        """Loss, the class predicted, its probability, and with two classes how far the second is ahead."""
        best, predicted = outputs.max(1)
        confidence = (best - outputs.logsumexp(1)).exp()
        # The logits' difference orders records as the probability does, but does not round to 1.
        ahead = [outputs[:, 1] - outputs[:, 0]] if outputs.shape[1] == 2 else []
        return torch.stack([self.losses(outputs, labels), predicted.to(outputs.dtype), confidence, *ahead], dim=1)

    def metrics(self, measured: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """Mean loss and accuracy."""
        return {"loss": float(measured[:, 0].mean()), "accuracy": float((measured[:, 1] == labels).mean())}

    def assess(self, measured: NDArray[np.float64], labels: NDArray[Any], names: tuple[str, ...]) -> Assessment:
        """Macro-F1, calibration error and with two classes AUROC too; precision, recall and F1 of every class.

        Macro-F1 is the mean over the classes that a test record has or was given.
        """
        predicted = measured[:, 1].astype(np.int64)
        scores = class_scores(predicted, labels, len(names))
        metrics = self.metrics(measured, labels) | {
            "macro_f1": float(np.nanmean(scores["f1"])),
            "expected_calibration_error": calibration_error(measured[:, 2], predicted == labels),
        }
        if len(names) == 2:
            metrics["auroc"] = auroc(measured[:, 3], labels == 1)
        columns = {"class": names, **{name: values.tolist() for name, values in scores.items()}}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return Assessment(metrics, {"per_class": rows})
