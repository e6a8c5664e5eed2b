"""Reconstruction: the label is the input, for autoencoders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedsim.data import Dataset, Examples
from fedsim.data.dataset import Kind
from fedsim.errors import BadInput
from fedsim.settings import section
from fedsim.tasks.task import Objective

LEVELS = 255
# Channels of what can be shown as a picture: grey values or colours.
SHOWN = (1, 3)


@section
@dataclass(frozen=True)
class Reconstruction(Objective):
    """The input itself, by mean squared error (``mse``) or binary cross-entropy (``bce``) of its values.

    ``lowest`` and ``highest`` declare the range of the data, a public constant from which PSNR's peak is taken; ``bce``
    needs 0 and 1, and its model returns logits.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    loss: Literal["mse", "bce"] = "mse"
    lowest: float = 0.0
    highest: float = 1.0
    labels_kind: ClassVar[Kind | None] = None
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "mse", "psnr")
    main_metric: ClassVar[str] = "psnr"
    shows_records: ClassVar[bool] = True

    def check(self, data: Dataset) -> None:
        """Raises ``BadInput`` for texts, for a range that is none or not that of the loss, and for values outside."""
        if data.vocabulary:
            raise BadInput('task.kind = "reconstruction": it is for numbers and images, but this data are texts.')
        bounds = f"task.lowest = {self.lowest:g}, task.highest = {self.highest:g}"
        if not self.lowest < self.highest or not math.isfinite(self.highest - self.lowest):
            raise BadInput(f"{bounds}: the highest value must be above the lowest, and both finite.")
        if self.loss == "bce" and (self.lowest, self.highest) != (0, 1):
            raise BadInput(f'{bounds}: task.loss = "bce" needs data in [0, 1]; use "mse", or scale the data.')
        for name, part in (("training", data.train), ("test", data.test)):
            if part.features.min() < self.lowest or part.features.max() > self.highest:
                raise BadInput(
                    f"{bounds}: the {name} data has values outside of this range. Declare the range that the data "
                    "really has, which is then public, or scale the data."
                )

    def labels(self, examples: Examples) -> NDArray[Any]:
        """The features."""
        return examples.features

    def outputs(self, data: Dataset) -> tuple[int, ...]:
        """The input's shape."""
        return data.shape

    def losses(self, outputs: Float[Tensor, "n ..."], labels: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Mean error of every example's values."""
        if self.loss == "bce":
            errors = functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
        else:
            errors = (outputs - labels).square()
        return errors.flatten(1).mean(1)

    def gradient(self, outputs: Float[Tensor, "n ..."], labels: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Twice the error (of ``bce``: the error of the probabilities) over the number of values."""
        gap = self.restored(outputs) - labels
        return (gap if self.loss == "bce" else 2 * gap) / math.prod(outputs.shape[1:])

    def restored(self, outputs: Tensor) -> Tensor:
        """The reconstruction that a model's outputs stand for."""
        return torch.sigmoid(outputs) if self.loss == "bce" else outputs

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss and mean squared error."""
        squared = (self.restored(outputs) - labels).square().flatten(1).mean(1)
        return torch.stack([self.losses(outputs, labels), squared], dim=1)

    def metrics(self, measured: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """Mean loss, MSE, and the peak signal-to-noise ratio of that MSE in dB (infinite where it is 0)."""
        loss, mse = measured.mean(axis=0).tolist()
        psnr = math.inf if mse == 0 else 20 * math.log10(self.highest - self.lowest) - 10 * math.log10(mse)
        return {"loss": loss, "mse": mse, "psnr": psnr}

    def pictures(self, inputs: Tensor, outputs: Tensor) -> dict[str, Any] | None:
        """Inputs and reconstructions as whole numbers from 0 to 255 ``[n, height, width, channels]``, if images."""
        if inputs.dim() != 4 or inputs.shape[1] not in SHOWN:
            return None
        named = {"inputs": inputs, "reconstructions": self.restored(outputs)}
        return {name: self._levels(values).tolist() for name, values in named.items()}

    def _levels(self, values: Tensor) -> Tensor:
        share = (values - self.lowest) / (self.highest - self.lowest)
        return (share.clamp(0, 1).nan_to_num(0.0) * LEVELS).round().byte().movedim(1, 3)
