"""Label flipping (Tolpegin et al. 2020, arXiv 2007.08432)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.attacks.base import Attack, Numbers, check_class, telling
from fedsim.data.dataset import Dataset, Examples
from fedsim.settings import section

Label = Annotated[int, Field(ge=0)]


@section
@dataclass(frozen=True, kw_only=True)
class LabelFlip(Attack):
    """Attackers train on wrong labels: ``source`` becomes ``target``, or without both class y of C becomes C - 1 - y.

    Classes are numbered from 0. Success is the share of the test records whose label would be flipped that the model
    calls what it would be flipped to.
    """

    kind: Literal["label_flip"] = "label_flip"
    source: Label | None = None
    target: Label | None = None
    for_classes: ClassVar[bool] = True
    tampers: ClassVar[bool] = False

    def check(self, data: Dataset) -> None:
        """Raise ``BadInput`` where the labels are no classes, or not so many."""
        super().check(data)
        for key, label in (("source", self.source), ("target", self.target)):
            if label is not None:
                check_class(f"attack.{key}", label, data)

    def flipped(self, labels: NDArray[Any], classes: int) -> NDArray[Any]:
        """The labels ``[n]`` as an attacker has them."""
        if self.source is None or self.target is None:
            return classes - 1 - labels
        return np.where(labels == self.source, self.target, labels)

    def poison(self, data: Dataset, records: Numbers, rng: np.random.Generator) -> Examples:
        """The training examples with the labels of the attackers' records flipped."""
        labels = data.train.labels.copy()
        labels[records] = self.flipped(labels[records], len(data.names))
        return replace(data.train, labels=labels)

    def probe(self, data: Dataset) -> Examples | None:
        """The test examples whose label would be flipped, with the flipped one."""
        labels = self.flipped(data.test.labels, len(data.names))
        return telling("attack.source", replace(data.test, labels=labels), labels != data.test.labels)
