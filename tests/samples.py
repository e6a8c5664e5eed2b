"""Small data of every shape that a model may be for; a test takes what fits a model, and fails where nothing does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from fedsim.data import Digits
from fedsim.data.dataset import Dataset, Examples
from fedsim.errors import BadInput
from fedsim.models import Signature, build_model
from fedsim.tasks import Classification, NextCharacter, Reconstruction, Regression, Task

RECORDS, HELD_OUT, LENGTH, VOCABULARY = 300, 60, 9, 7


@cache
def images():
    """Digits ``[1, 8, 8]``."""
    digits = Digits().load(0)
    train, test = digits.train, digits.test
    return dataset(train.features[:RECORDS], train.labels[:RECORDS], test.features[:HELD_OUT], test.labels[:HELD_OUT])


def owned_images():
    """The same digits, held by eight people."""
    whole = images()
    owners = [np.arange(len(part)) % 8 for part in (whole.train, whole.test)]
    train, test = (replace(part, owners=own) for part, own in zip((whole.train, whole.test), owners, strict=True))
    return replace(whole, train=train, test=test, owners=tuple("abcdefgh"))


def rows():
    """The same digits as sequences of eight rows of eight numbers."""
    whole = images()
    return dataset(*(part for split in (whole.train, whole.test) for part in (split.features[:, 0], split.labels)))


def numbers():
    """Six numbers, from which two others follow."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((RECORDS + HELD_OUT, 6)).astype(np.float32)
    labels = (features @ rng.standard_normal((6, 2))).astype(np.float32)
    parts = features[:RECORDS], labels[:RECORDS], features[RECORDS:], labels[RECORDS:]
    return dataset(*parts, names=("first", "second"), kind="numbers")


def texts(kind="classes"):
    """Texts of up to nine tokens, padded with 0: one of ten classes each, or each token's next one."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, (RECORDS + HELD_OUT, LENGTH))
    tokens[np.arange(LENGTH) >= rng.integers(1, LENGTH + 1, len(tokens))[:, None]] = 0
    following = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), -1)], axis=1)
    labels = following if kind == "tokens" else tokens.sum(1) % 10
    names = "abcdefghij" if kind == "classes" else "abcdefg"
    parts = tokens[:RECORDS], labels[:RECORDS], tokens[RECORDS:], labels[RECORDS:]
    return dataset(*parts, names=tuple(names), kind=kind, vocabulary=VOCABULARY)


def dataset(features, labels, test_features, test_labels, **about):
    """Training and test examples."""
    about = {"names": tuple("0123456789")} | about
    return Dataset(Examples(features, labels), Examples(test_features, test_labels), **about)


SAMPLES = {
    "images": (images, Classification()),
    "rows": (rows, Classification()),
    "numbers": (numbers, Regression()),
    "texts": (texts, Classification()),
    "next character": (lambda: texts("tokens"), NextCharacter()),
    "reconstruction": (images, Reconstruction()),
}


def load(sample: str) -> Dataset:
    """A data source of scenarios: ``data = { source = "tests.samples:load", settings = { sample = "rows" } }``."""
    return owned_images() if sample == "owned images" else SAMPLES[sample][0]()


SIGNATURES = [
    Signature((1, 8, 8), (10,)),
    Signature((3, 9, 12), (1,)),
    Signature((6,), (3,)),
    Signature((8, 5), (10,)),
    Signature((LENGTH,), (10,), VOCABULARY),
    Signature((LENGTH,), (LENGTH, VOCABULARY), VOCABULARY),
    Signature((1, 8, 8), (1, 8, 8)),
]


def fits(settings, signature):
    """Whether a model can be built for a signature; if not, it must say so of itself."""
    problem = None
    try:
        build_model(settings, signature, 0)
    except BadInput as error:
        problem = str(error)
    assert problem is None or problem.startswith("model."), problem
    return problem is None


def signatures_of(settings):
    """The signatures that fit a model."""
    found = [signature for signature in SIGNATURES if fits(settings, signature)]
    assert found, f"no sample fits {settings}; add one to tests/samples.py"
    return found


def tasks_of(settings):
    """The sample tasks that fit a model, by name."""
    every = {name: Task.of(objective, make(), torch.device("cpu")) for name, (make, objective) in SAMPLES.items()}
    found = {name: task for name, task in every.items() if fits(settings, task.signature)}
    assert found, f"no sample fits {settings}; add one to tests/samples.py"
    return found


def examples_of(signature, records=5):
    """Random examples."""
    rng = torch.Generator().manual_seed(1)
    if signature.vocabulary:
        return torch.randint(0, signature.vocabulary, (records, *signature.inputs), generator=rng)
    return torch.rand(records, *signature.inputs, generator=rng)
