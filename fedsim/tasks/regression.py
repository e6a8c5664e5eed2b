"""Regression: numbers, by squared or absolute error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedsim.data import Dataset
from fedsim.data.dataset import Kind
from fedsim.settings import section
from fedsim.tasks.task import Objective


@section
@dataclass(frozen=True)
class Regression(Objective):
    """One or more numbers, by their mean squared error (``mse``) or mean absolute error (``mae``)."""

    kind: Literal["regression"] = "regression"
    loss: Literal["mse", "mae"] = "mse"
    labels_kind: ClassVar[Kind | None] = "numbers"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "mse", "mae", "r2")
    main_metric: ClassVar[str] = "r2"
    client_metric: ClassVar[str] = "mse"

    def outputs(self, data: Dataset) -> tuple[int, ...]:
        """As many values as an example has numbers."""
        return data.train.labels.shape[1:]

    def losses(self, outputs: Float[Tensor, "n numbers"], labels: Float[Tensor, "n numbers"]) -> Float[Tensor, " n"]:
        """Mean error of every example on its own."""
        gap = outputs - labels
        return (gap.square() if self.loss == "mse" else gap.abs()).mean(1)

    def gradient(
        self, outputs: Float[Tensor, "n numbers"], labels: Float[Tensor, "n numbers"]
    ) -> Float[Tensor, "n numbers"]:
        """Twice the error, or its sign, over the number of numbers."""
        gap = outputs - labels
        return (2 * gap if self.loss == "mse" else gap.sign()) / outputs.shape[1]

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss, squared and absolute errors of every number."""
        gap = outputs - labels
        return torch.cat([self.losses(outputs, labels)[:, None], gap.square(), gap.abs()], dim=1)

    def metrics(self, measured: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """Mean loss, MSE, MAE, and R2 averaged over the numbers (NaN where one does not vary)."""
        squared, absolute = np.split(measured[:, 1:], 2, axis=1)
        # Rounding can give even a constant a variance, so that is asked for by its values.
        varies = labels.max(axis=0) > labels.min(axis=0)
        variance = np.where(varies, labels.astype(np.float64).var(axis=0), np.nan)
        r2 = float((1 - squared.mean(axis=0) / variance).mean())
        return {
            "loss": float(measured[:, 0].mean()),
            "mse": float(squared.mean()),
            "mae": float(absolute.mean()),
            "r2": r2,
        }
