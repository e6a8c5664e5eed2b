"""Public root records: whose they are, and what the server trains on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fedsim
from fedsim.algorithms import ALGORITHMS
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.root import root_update
from tests.aggregation.runs import scenario
from tests.conftest import EXAMPLE_PRIVACY, SMALL, job_of, settings_of

pytestmark = pytest.mark.usefixtures("no_report")


def test_root_records_are_test_records_no_more_and_belong_to_nobody():
    plain = build_federation(scenario()).holdings
    holdings = build_federation(scenario('algorithm.aggregation={kind="fltrust", root_records=40}')).holdings
    records = len(plain.data.train)
    assert (len(holdings.data.train), len(holdings.data.test)) == (records + 40, len(plain.data.test) - 40)
    assert holdings.root.indices.tolist() == list(range(records, records + 40))
    assert not np.isin(holdings.root.indices, holdings.population.indices).any()
    assert np.array_equal(holdings.population.indices, plain.population.indices)
    both = np.concatenate([holdings.data.train.features[records:], holdings.data.test.features]).reshape(-1, 64)
    whole = plain.data.test.features.reshape(-1, 64)
    assert np.array_equal(both[np.lexsort(both.T)], whole[np.lexsort(whole.T)])
    assert any("40 of the source's test records are public root records" in note for note in holdings.notes)


@pytest.mark.parametrize("text", [SMALL, SMALL + EXAMPLE_PRIVACY])
@pytest.mark.parametrize("trainer", ["vectorised", "opacus", "auto"])
def test_the_root_update_is_plain_training_on_the_root_records(text, trainer):
    """In one batch the order of records does not matter, so plain PyTorch must find the same; nothing is noised."""
    federation = build_federation(
        scenario(
            'algorithm.aggregation={kind="fltrust", root_records=40}',
            f"engine.trainer={trainer}",
            "algorithm.local.epochs=3",
            text=text,
        )
    )
    job = job_of(federation)
    found = root_update(federation, federation.holdings.root, job)
    root = federation.holdings.root.indices
    features = torch.from_numpy(federation.holdings.data.train.features[root])
    labels = torch.from_numpy(federation.holdings.data.train.labels[root])
    views = {name: view.clone() for name, view in federation.layout.views(federation.start).items()}
    for _ in range(3):
        leaves = {name: value.requires_grad_() for name, value in views.items()}
        scores = torch.func.functional_call(federation.module, leaves, (features,))
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, labels), list(leaves.values()))
        views = {name: (leaf - 0.2 * own).detach() for (name, leaf), own in zip(leaves.items(), gradients, strict=True)}
    expected = federation.layout.flatten(views) - federation.start
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found, root_update(federation, federation.holdings.root, job))


def test_root_batches_are_drawn_anew_in_every_round():
    federation = build_federation(scenario('algorithm.aggregation={kind="fltrust", root_records=100}'))
    first, second = (root_update(federation, federation.holdings.root, job_of(federation, round_=r)) for r in (1, 2))
    assert not torch.equal(first, second)


def test_root_records_are_declared_in_the_statement(tmp_path):
    chosen = scenario('algorithm.aggregation={kind="fltrust", root_records=40}', text=SMALL + EXAMPLE_PRIVACY)
    result = fedsim.run(chosen, tmp_path / "run")
    assert "The server trains on 40 root records without noise" in (tmp_path / "run/summary.json").read_text()
    assert result.summary["status"] == "completed"


def test_more_root_records_than_the_source_can_spare_are_refused():
    with pytest.raises(BadInput, match=r"root_records = 100000: the source has \d+ test records"):
        build_federation(scenario('algorithm.aggregation={kind="fltrust", root_records=100000}'))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_on_the_root_records_or_says_why_not(algorithm, tmp_path):
    """Also those that look at all records at once, as mimelite's gradients and qfedavg's losses do."""
    steps = () if ALGORITHMS[algorithm].one_step else ("algorithm.local.steps=2",)
    own = (*settings_of(algorithm), *steps)
    overrides = ('algorithm.aggregation={kind="fltrust", root_records=40}', *own)
    if ALGORITHMS[algorithm].personalises or build_federation(scenario(*own)).state_size:
        with pytest.raises(BadInput, match=r'algorithm\.aggregation\.kind = "fltrust"'):
            build_federation(scenario(*overrides))
        return
    assert fedsim.run(scenario(*overrides, "rounds=1"), tmp_path / "run").summary["status"] == "completed"
