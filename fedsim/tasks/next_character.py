"""Next character: a language model over the characters of a text."""

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

# The label of a place that has none.
NONE = -1


@section
@dataclass(frozen=True)
class NextCharacter(Objective):
    """The character that follows each one of a text, by cross-entropy.

    An example is a piece of text; its loss is the mean over its characters, so that it is one unit of privacy however
    long it is. Places labelled -1 count as nothing.
    """

    kind: Literal["next_character"] = "next_character"
    labels_kind: ClassVar[Kind | None] = "tokens"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "perplexity")
    main_metric: ClassVar[str] = "accuracy"

    def outputs(self, data: Dataset) -> tuple[int, ...]:
        """One value for each character of the alphabet, at each place."""
        return (*data.train.labels.shape[1:], len(data.names))

    def losses(
        self, outputs: Float[Tensor, "n length alphabet"], labels: Int[Tensor, "n length"]
    ) -> Float[Tensor, " n"]:
        """Mean cross-entropy of every example's characters; 0 for an example without any."""
        return _entropies(outputs, labels).sum(1) / _lengths(labels)

    def gradient(
        self, outputs: Float[Tensor, "n length alphabet"], labels: Int[Tensor, "n length"]
    ) -> Float[Tensor, "n length alphabet"]:
        """The probabilities, less 1 at the label, over the example's length; 0 at places without a label."""
        real = labels != NONE
        found = torch.softmax(outputs, 2)
        found.scatter_add_(2, labels.clamp(min=0).unsqueeze(2), -torch.ones_like(found[..., :1]))
        return torch.where(real.unsqueeze(2), found / _lengths(labels)[:, None, None], 0.0)

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss, summed cross-entropy, characters that are right, and characters."""
        entropies, real = _entropies(outputs, labels), labels != NONE
        right = (outputs.argmax(2) == labels).sum(1).to(outputs.dtype)
        total = entropies.sum(1)
        return torch.stack([total / _lengths(labels), total, right, real.sum(1).to(outputs.dtype)], dim=1)

    def metrics(self, measured: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """Mean loss of the examples; accuracy and perplexity over all characters (NaN where there are none)."""
        total, right, characters = measured[:, 1:].sum(axis=0)
        count = characters if characters else np.nan
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(total / count))
        return {"loss": float(measured[:, 0].mean()), "accuracy": float(right / count), "perplexity": perplexity}


def _entropies(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at every place ``[n, length]``, 0 where there is no label."""
    return functional.cross_entropy(outputs.transpose(1, 2), labels, ignore_index=NONE, reduction="none")


def _lengths(labels: Tensor) -> Tensor:
    """How many characters each example has ``[n]``, 1 for one without any."""
    return (labels != NONE).sum(1).clamp(min=1)
