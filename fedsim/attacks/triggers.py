"""The trigger of a backdoor: a square of pixels that makes the model call an image what the attacker wants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.attacks.base import Numbers, check_class, telling
from fedsim.data.dataset import Dataset, Examples
from fedsim.errors import BadInput
from fedsim.settings import Count, section


@section
@dataclass(frozen=True, kw_only=True)
class Trigger:
    """A square of ``size`` pixels of one ``value`` in a corner; what bears it is to be called ``target``.

    Attackers stamp a share ``poisoned`` of their records. The value is one of the features as the model gets them; the
    classes are numbered from 0.
    """

    size: Count = 2
    corner: Literal["top_left", "top_right", "bottom_left", "bottom_right"] = "bottom_right"
    value: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    target: Annotated[int, Field(ge=0)] = 0
    poisoned: Annotated[float, Field(gt=0, le=1)] = 0.5

    def check(self, data: Dataset) -> None:
        """Raise ``BadInput`` for data without images that it fits on, or without its target."""
        shape = data.shape
        if len(shape) != 3 or data.vocabulary:
            raise BadInput(
                f"attack.trigger: features of shape {list(shape)} are no images (channels, height, width) that it "
                "could be stamped on."
            )
        if self.size >= min(shape[1:]):
            raise BadInput(
                f"attack.trigger.size = {self.size}: it would cover the images of {shape[1]} x {shape[2]} pixels; use "
                "a smaller one."
            )
        check_class("attack.trigger.target", self.target, data)

    def stamp(self, images: NDArray[Any]) -> None:
        """Stamp images ``[n, channels, height, width]`` in place."""
        rows = slice(0, self.size) if self.corner.startswith("top") else slice(-self.size, None)
        columns = slice(0, self.size) if self.corner.endswith("left") else slice(-self.size, None)
        images[:, :, rows, columns] = self.value

    def poison(self, data: Dataset, records: Numbers, rng: np.random.Generator) -> Examples:
        """The training examples with a share of the ``records`` stamped and labelled with the target."""
        chosen = rng.choice(records, round(self.poisoned * len(records)), replace=False)
        features, labels = data.train.features.copy(), data.train.labels.copy()
        stamped = features[chosen]
        self.stamp(stamped)
        features[chosen], labels[chosen] = stamped, self.target
        return replace(data.train, features=features, labels=labels)

    def probe(self, data: Dataset) -> Examples:
        """The test examples of other classes, stamped, and labelled with the target."""
        found = telling("attack.trigger.target", data.test, data.test.labels != self.target)
        self.stamp(found.features)
        return Examples(found.features, np.full_like(found.labels, self.target))
