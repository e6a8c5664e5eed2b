"""Flower strategies as the server's side, those of Flower and some of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import load_file

import fedsim
from fedsim.errors import BadInput, FedsimError
from fedsim.federation import build_federation
from fedsim.models import Mlp, Signature, build_model
from tests.aggregation.runs import Stop, final, scenario, stop_at, strategy

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.mark.parametrize(
    ("ours", "flower"),
    [
        ((), strategy("FedAvg")),
        (('algorithm.aggregation.kind="median"',), strategy("FedMedian")),
        (('algorithm.aggregation={kind="trimmed_mean", share=0.34}',), strategy("FedTrimmedAvg", beta=0.34)),
        (('algorithm.aggregation={kind="krum", attackers=1}',), strategy("Krum", num_malicious_nodes=1)),
        (('algorithm.server.optimizer="fedavgm"',), strategy("FedAvgM", server_momentum=0.9)),
        (("algorithm.weighting=uniform",), (*strategy("FedAvg"), "algorithm.weighting=uniform")),
    ],
)
def test_flower_s_strategies_give_what_ours_give(tmp_path, ours, flower):
    torch.testing.assert_close(
        final(tmp_path / "ours", *ours), final(tmp_path / "flower", *flower), rtol=1e-4, atol=1e-5
    )


def test_strategies_do_something_else_than_the_mean(tmp_path):
    mean = final(tmp_path / "mean")
    for name in ("FedMedian", "FedAdam"):
        assert float((final(tmp_path / name, *strategy(name)) - mean).norm()) > 0.01 * float(mean.norm())


class Opaque(FedAvg):
    """Remembers something that no checkpoint can hold."""

    def __init__(self):
        super().__init__()
        self.memory = {"rounds": {1, 2}}


class Remembering(FedAvg):
    """Remembers a bit of everything that a checkpoint can hold."""

    def __init__(self):
        super().__init__()
        self.rounds, self.seen, self.names = 0, {}, []
        self.count, self.pair, self.tensor, self.none = np.float32(0), (0, "a"), torch.zeros(2), None

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.rounds, self.count, self.tensor = self.rounds + 1, self.count + np.float32(0.5), self.tensor + 1
        self.seen[server_round] = np.arange(server_round, dtype=np.int32)
        self.names.append(f"round {server_round}")
        self.pair = (len(self.names), self.names[-1])
        expected = list(range(1, server_round + 1))
        assert (list(self.seen), self.rounds) == (expected, server_round)
        assert all(np.array_equal(self.seen[r], np.arange(r)) and self.seen[r].dtype == np.int32 for r in expected)
        assert (type(self.count), self.count) == (np.float32, server_round / 2)
        assert torch.equal(self.tensor, torch.full((2,), float(server_round)))
        assert (self.pair, self.none) == ((server_round, f"round {server_round}"), None)
        return arrays, metrics


class Silent(FedAvg):
    """Makes no model."""

    def aggregate_train(self, server_round, replies):
        return None, None


class Renaming(FedAvg):
    """Returns a model with other names."""

    def aggregate_train(self, server_round, replies):
        from flwr.app import ArrayRecord

        arrays, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({"x" + name: array for name, array in arrays.items()}), metrics


class Inspecting(FedAvg):
    """Checks what it is shown."""

    def aggregate_train(self, server_round, replies):
        contents = [reply.content for reply in replies]
        names = [name for name, _ in build_model(Mlp(hidden=(8,)), Signature((1, 8, 8), (10,)), 0).named_parameters()]
        assert all(list(content["arrays"]) == names for content in contents)
        assert all(isinstance(content["metrics"]["num-examples"], int) for content in contents)
        assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3, 4, 5, 6]
        assert all(str(array.dtype) == "float32" for content in contents for array in content["arrays"].values())
        return super().aggregate_train(server_round, replies)


def own(name, **options):
    return strategy(f"tests.aggregation.test_strategies:{name}", **options)


def test_a_strategy_is_shown_models_by_name_and_sizes(tmp_path):
    assert torch.equal(final(tmp_path / "own", *own("Inspecting")), final(tmp_path / "flower", *strategy("FedAvg")))


def test_a_strategy_s_attributes_survive_a_resume(tmp_path):
    chosen = scenario("rounds=4", *own("Remembering"))
    with pytest.raises(Stop):
        fedsim.run(chosen, tmp_path / "stopped", stop_at(2))
    assert fedsim.resume(tmp_path / "stopped").summary["rounds"] == 4


def test_a_strategy_that_no_checkpoint_can_hold_runs_but_is_not_resumed(tmp_path):
    chosen = scenario(*own("Opaque"))
    assert fedsim.run(chosen, tmp_path / "whole").summary["status"] == "completed"
    with pytest.raises(Stop):
        fedsim.run(chosen, tmp_path / "stopped", stop_at(1))
    with pytest.raises(FedsimError, match=r"cannot be resumed.*memory \(dict\)"):
        fedsim.resume(tmp_path / "stopped")


def test_a_strategy_without_a_model_leaves_ours(tmp_path):
    chosen = scenario(*own("Silent"))
    directory = fedsim.run(chosen, tmp_path / "run").directory
    federation = build_federation(chosen)
    assert torch.equal(federation.layout.flatten(load_file(directory / "model.safetensors")), federation.start)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (own("Renaming"), "returned a model of other parameters"),
        (strategy("QFedAvg", client_learning_rate=0.1), "failed in round 1"),
    ],
)
def test_a_strategy_that_fails_is_one_clear_error(tmp_path, overrides, expected):
    with pytest.raises(FedsimError, match=expected) as caught:
        fedsim.run(scenario(*overrides), tmp_path / "run")
    assert 'algorithm.strategy = "' in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (strategy("FedNever"), "cannot be imported"),
        (strategy("FedAvg", fraction=1), "could not be built from algorithm.strategy_options"),
        (strategy("collections:OrderedDict"), "not a flwr.serverapp.strategy.Strategy"),
    ],
)
def test_strategies_that_do_not_exist_are_refused_before_anything_is_written(tmp_path, overrides, expected):
    with pytest.raises(BadInput, match=expected):
        fedsim.run(scenario(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()
