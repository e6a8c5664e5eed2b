"""Data drawn from a known law, so that what should be learnt is known too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.data.assembling import split_rows
from fedsim.data.dataset import Dataset, Examples, Kind
from fedsim.data.tabular import Rows
from fedsim.seeding import Stream, generator
from fedsim.settings import Count, NonNegative, choice, section

Several = Annotated[int, Field(ge=2)]


class Problem(Protocol):
    """What an entry of the table of problems offers."""

    @property
    def kind(self) -> str:
        """Its name in the table."""

    def draw(self, rng: np.random.Generator) -> Rows:
        """Features ``[n, d]``, labels, and the owner of each example if the law has owners."""

    def names(self) -> tuple[str, ...]:
        """Names of the classes or numbers."""


@section
@dataclass(frozen=True)
class Line:
    """Linear regression: y = 3x + 2 + noise, with x from a standard normal distribution."""

    kind: Literal["linear"] = "linear"
    examples: Several = 1000
    noise: NonNegative = 0.1

    def draw(self, rng: np.random.Generator) -> Rows:
        """Features ``[n, 1]`` and numbers ``[n, 1]``."""
        x = rng.standard_normal((self.examples, 1))
        return Rows(x, 3 * x + 2 + self.noise * rng.standard_normal((self.examples, 1)), None)

    def names(self) -> tuple[str, ...]:
        """The one number."""
        return ("y",)


@section
@dataclass(frozen=True)
class Clusters:
    """Classes that are Gaussian clusters of unit spread around centres ``separation`` from the origin."""

    kind: Literal["clusters"] = "clusters"
    examples: Several = 1000
    classes: Several = 3
    features: Count = 2
    separation: NonNegative = 4.0

    def draw(self, rng: np.random.Generator) -> Rows:
        """Features ``[n, features]`` around centres in random directions, and classes ``[n]``, equally often."""
        centres = rng.standard_normal((self.classes, self.features))
        centres *= self.separation / np.linalg.norm(centres, axis=1, keepdims=True)
        labels = rng.permutation(np.arange(self.examples) % self.classes)
        return Rows(centres[labels] + rng.standard_normal((self.examples, self.features)), labels, None)

    def names(self) -> tuple[str, ...]:
        """The clusters' numbers."""
        return tuple(str(number) for number in range(self.classes))


@section
@dataclass(frozen=True)
class Leaf:
    """Synthetic(alpha, beta): clients whose models differ by alpha and whose features differ by beta.

    Li et al. 2018 (arXiv 1812.06127), also in LEAF (Caldas et al. 2018, arXiv 1812.01097). Client k has the label
    argmax(W_k x + b_k) with W_k, b_k ~ N(u_k, 1), u_k ~ N(0, alpha), and x ~ N(v_k, diag(j^-1.2)), v_k ~ N(B_k, 1),
    B_k ~ N(0, beta); alpha and beta are standard deviations, as in the authors' code, and sizes are
    50 + lognormal(4, 2). ``iid`` gives all clients one model and features around 0.
    """

    kind: Literal["leaf"] = "leaf"
    alpha: NonNegative = 1.0
    beta: NonNegative = 1.0
    iid: bool = False
    clients: Count = 30
    features: Count = 60
    classes: Several = 10

    def draw(self, rng: np.random.Generator) -> Rows:
        """Features ``[n, features]``, classes ``[n]``, and the client of each example."""
        sizes = rng.lognormal(4, 2, self.clients).astype(np.int64) + 50
        common = self._model(0.0, rng)
        drawn = [self._client(int(size), common, rng) for size in sizes]
        owners = np.repeat(np.arange(self.clients), sizes).astype(np.str_)
        return Rows(np.concatenate([x for x, _ in drawn]), np.concatenate([y for _, y in drawn]), owners)

    def _model(self, mean: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return rng.normal(mean, 1, (self.features, self.classes)), rng.normal(mean, 1, self.classes)

    def _client(
        self, size: int, common: tuple[NDArray[np.float64], NDArray[np.float64]], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        weight, bias = common if self.iid else self._model(rng.normal(0, self.alpha), rng)
        centre = np.zeros(self.features) if self.iid else rng.normal(rng.normal(0, self.beta), 1, self.features)
        spread = np.arange(1, self.features + 1) ** -0.6  # the root of the variance j^-1.2
        x = centre + spread * rng.standard_normal((size, self.features))
        return x, (x @ weight + bias).argmax(axis=1)

    def names(self) -> tuple[str, ...]:
        """The classes' numbers."""
        return tuple(str(number) for number in range(self.classes))


PROBLEMS = {"linear": Line, "clusters": Clusters, "leaf": Leaf}

if TYPE_CHECKING:
    ProblemChoice = Problem
else:
    ProblemChoice = choice("kind", PROBLEMS)


@section
@dataclass(frozen=True)
class Synthetic:
    """Drawn from the scenario's seed: a line, Gaussian clusters, or the federated synthetic(alpha, beta)."""

    source: Literal["synthetic"] = "synthetic"
    problem: ProblemChoice = Line()
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def load(self, seed: int) -> Dataset:
        """Examples as the problem draws them; a fraction of all, or of each owner's, is held out."""
        rng = generator(seed, Stream.SPLIT)
        rows = self.problem.draw(rng)
        train, test = (_examples(rows.take(part)) for part in split_rows(rows, self.test_fraction, rng))
        kind: Kind = "classes" if rows.labels.ndim == 1 else "numbers"
        owners = () if rows.owners is None else tuple(map(str, range(rows.owners.astype(int).max() + 1)))
        return Dataset(train, test, self.problem.names(), kind, owners=owners)


def _examples(rows: Rows) -> Examples:
    labels = rows.labels.astype(np.int64 if rows.labels.ndim == 1 else np.float32)
    owners = None if rows.owners is None else rows.owners.astype(np.int64)
    return Examples(rows.values.astype(np.float32), labels, owners)
