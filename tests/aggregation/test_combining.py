"""Aggregators and Flower strategies inside whole runs, and what they remember over a resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import load_file

import fedsim
from fedsim.client import train_clients
from fedsim.collecting import collect
from fedsim.combining import Combiner
from fedsim.errors import BadInput, FedsimError
from fedsim.federation import build_federation
from fedsim.messages import Rows
from fedsim.root import root_update
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

FLWR = "flwr.serverapp.strategy"
LOCAL = 'privacy.client={clip_norm=0.4, noise_multiplier=1.2, delta=1e-2, placement="client"}'


def scenario(*overrides, text=SMALL):
    return fedsim.parse_scenario(text, "small", overrides)


def model(directory):
    named = load_file(directory / "model.safetensors")
    return torch.cat([named[name].flatten() for name in sorted(named)])


def final(path, *overrides):
    return model(fedsim.run(scenario(*overrides), path).directory)


def strategy(name, **options):
    text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    return f'algorithm.strategy="{name if ":" in name else f"{FLWR}:{name}"}"', f"algorithm.strategy_options={{{text}}}"


class Stop(Exception):
    pass


def stop_at(round_):
    def on_round(row):
        if row["round"] == round_:
            raise Stop

    return on_round


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


REMEMBERING = {
    "centred_clipping": ('algorithm.aggregation={kind="centred_clipping", radius=0.3}',),
    "fltrust": ('algorithm.aggregation={kind="fltrust", root_records=40}',),
    "FedAdam": strategy("FedAdam", eta=0.02),
    "FedAvgM": strategy("FedAvgM", server_momentum=0.9),
    "fedyogi": ('algorithm.server.optimizer="fedyogi"',),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(tmp_path, name):
    chosen = scenario("rounds=4", *REMEMBERING[name])
    whole = model(fedsim.run(chosen, tmp_path / "whole").directory)
    with pytest.raises(Stop):
        fedsim.run(chosen, tmp_path / "stopped", stop_at(2))
    assert torch.equal(model(fedsim.resume(tmp_path / "stopped").directory), whole)


@pytest.mark.parametrize("name", ["centred_clipping", "FedAdam", "FedAvgM"])
def test_what_is_remembered_matters(tmp_path, name):
    """Without it the run goes on elsewhere, so that the test above can fail."""
    chosen = scenario("rounds=4", *REMEMBERING[name])
    whole = model(fedsim.run(chosen, tmp_path / "whole").directory)
    with pytest.raises(Stop):
        fedsim.run(chosen, tmp_path / "stopped", stop_at(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Combiner, "restore", lambda self, tensors: None)
        assert not torch.equal(model(fedsim.resume(tmp_path / "stopped").directory), whole)


def test_centred_clipping_in_the_loop_is_the_written_out_one(tmp_path):
    chosen = scenario('algorithm.aggregation={kind="centred_clipping", radius=0.3}')
    found = fedsim.run(chosen, tmp_path / "run")
    federation = build_federation(chosen)
    params, centre = federation.start.double().numpy(), np.zeros(len(federation.start))
    for round_ in (1, 2, 3):
        job = job_of(federation, round_=round_)
        job = type(job)(**{**vars(job), "params": params.astype(np.float32)})
        rows = train_clients(federation, job).rows
        ways = rows.reports.astype(np.float64) - centre
        ways *= np.minimum(1, 0.3 / np.linalg.norm(ways, axis=1))[:, None]
        centre = centre + np.average(ways, axis=0, weights=federation.population.sizes[rows.clients])
        params = params + centre
    named = load_file(found.directory / "model.safetensors")
    flat = federation.layout.flatten(named)
    torch.testing.assert_close(flat.double(), torch.from_numpy(params), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["median", "geometric_median", "centred_clipping", "fltrust"])
def test_block_size_changes_nothing_beyond_rounding(tmp_path, name):
    kind = f'algorithm.aggregation.kind="{name}"'
    big, small = final(tmp_path / "a", kind), final(tmp_path / "b", kind, "engine.memory_gib=1e-9")
    torch.testing.assert_close(big, small, rtol=1e-4, atol=1e-5)


def test_a_round_with_too_few_reports_leaves_the_model_where_it_is(tmp_path):
    """Of six clients three are expected, and some rounds have fewer than the three that a trimmed Krum needs."""
    chosen = scenario(
        "rounds=8",
        'cohort.sampling={kind="poisson", rate=0.5}',
        'algorithm.aggregation={kind="krum", attackers=0}',
    )
    directory = fedsim.run(chosen, tmp_path / "run").directory
    rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    skipped = [index for index, row in enumerate(rows) if row["cohort"] < 3]
    assert skipped
    for index in skipped[1:] if skipped[0] == 0 else skipped:
        assert rows[index]["loss"] == rows[index - 1]["loss"]
    assert len({row["loss"] for row in rows}) == 8 - len(skipped) + (skipped[0] == 0)


@pytest.mark.parametrize("kind", ["median", "strategy"])
def test_an_empty_cohort_is_no_error(tmp_path, kind):
    chosen = scenario(
        "rounds=6",
        'cohort.sampling={kind="poisson", rate=0.1}',
        *(strategy("FedAvg") if kind == "strategy" else ('algorithm.aggregation.kind="median"',)),
    )
    directory = fedsim.run(chosen, tmp_path / "run").directory
    rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    assert 0 in [row["cohort"] for row in rows]
    assert any(row["cohort"] for row in rows)


def test_clients_of_no_weight_have_no_vote():
    federation = build_federation(scenario('algorithm.aggregation.kind="median"'))
    size = len(federation.start)
    reports = np.stack([np.full(size, value, np.float32) for value in (1, 2, 50, 60, 70)])
    rows = Rows(np.arange(5), np.array([1.0, 1.0, 0, 0, 0]), reports)
    combined = Combiner(federation).combine([rows], job_of(federation))
    assert torch.equal(combined, torch.full((size,), 1.5))


# Root data.


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


# Strategies of one's own.


class Opaque(FedAvg):
    """Remembers something that no checkpoint can hold."""

    def __init__(self):
        super().__init__()
        self.memory = {"rounds": {1, 2}}


class Remembering(FedAvg):
    """Remembers a bit of everything that a checkpoint can hold, and adds its number of rounds to the model."""

    def __init__(self, step=0.0):
        super().__init__()
        self.step, self.rounds, self.seen, self.names = step, 0, {}, []
        self.count, self.pair, self.tensor, self.none = np.float32(0), (0, "a"), torch.zeros(2), None

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.rounds, self.count, self.tensor = self.rounds + 1, self.count + np.float32(0.5), self.tensor + 1
        self.seen[server_round] = np.arange(server_round, dtype=np.int32)
        self.names.append(f"round {server_round}")
        self.pair = (len(self.names), self.names[-1])
        expected = list(range(1, server_round + 1))
        assert list(self.seen) == expected and self.rounds == server_round, "forgot"
        assert all(np.array_equal(self.seen[r], np.arange(r)) and self.seen[r].dtype == np.int32 for r in expected)
        assert self.count == server_round / 2 and isinstance(self.count, np.float32), "forgot"
        assert self.tensor.tolist() == [server_round] * 2 and isinstance(self.tensor, torch.Tensor)
        assert self.pair == (server_round, f"round {server_round}") and self.none is None
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
        names = ["0.weight", "0.bias", "2.weight", "2.bias"]
        contents = [reply.content for reply in replies]
        assert all(len(content["arrays"]) == 4 for content in contents), names
        assert all(isinstance(content["metrics"]["num-examples"], int) for content in contents)
        assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3, 4, 5, 6]
        assert all(str(array.dtype) == "float32" for content in contents for array in content["arrays"].values())
        return super().aggregate_train(server_round, replies)


def own(name, **options):
    return strategy(f"tests.aggregation.test_combining:{name}", **options)


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


def test_local_dp_may_be_aggregated_robustly(tmp_path):
    """Every report is noised before anybody sees it; what the server makes of them is post-processing."""
    result = fedsim.run(scenario(LOCAL, 'algorithm.aggregation.kind="median"'), tmp_path / "median")
    mean = fedsim.run(scenario(LOCAL), tmp_path / "mean")
    assert result.privacy[0]["epsilon"] == mean.privacy[0]["epsilon"]


CLIENT = SMALL + CLIENT_PRIVACY
FLTRUST = 'algorithm.aggregation.kind="fltrust"'


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (CLIENT, ['algorithm.aggregation.kind="median"'], 'aggregation.kind = "median": it needs every client'),
        (CLIENT, [FLTRUST], "calibrated for a sum of clipped updates"),
        (CLIENT, strategy("FedAvg"), 'algorithm.strategy = "flwr.serverapp.strategy:FedAvg": it needs every client'),
        (CLIENT, ['algorithm.aggregation.kind="norm_bound"'], "privacy.client.clip_norm bounds every update already"),
        (SMALL, [LOCAL, 'algorithm.aggregation.kind="norm_bound"'], "privacy.client.clip_norm bounds"),
        (SMALL, [FLTRUST, "evaluation.folds=3"], "declared public"),
        (SMALL, [FLTRUST, 'evaluation.test={kind="per_client"}'], "declared public"),
        (SMALL, ['algorithm.aggregation={kind="krum", attackers=2}'], "at least 7 updates, and a cohort has 6 clients"),
        (
            SMALL,
            ['algorithm.aggregation={kind="krum", attackers=1}', 'cohort.sampling={kind="poisson", rate=0.5}'],
            "at least 5 updates, and a cohort has 3 clients",
        ),
        (SMALL, ['algorithm.aggregation={kind="multi_krum", kept=7}'], "at least 7 updates"),
        (SMALL, ["algorithm.strategy_options={eta=0.1}"], "only used with algorithm.strategy"),
        (SMALL, ["algorithm.strategy=FedAdam"], 'must be "package.module:Class"'),
        (SMALL, [*strategy("FedAvg"), 'algorithm.aggregation.kind="median"'], "the strategy aggregates itself"),
        (SMALL, [*strategy("FedAvg"), "algorithm.server.learning_rate=0.5"], "leave out algorithm.server"),
    ],
)
def test_impossible_combinations_are_refused_with_the_reason(text, overrides, expected):
    with pytest.raises(BadInput) as caught:
        scenario(*overrides, text=text)
    assert expected in str(caught.value)


def test_cohorts_of_owners_are_counted_when_the_data_is_there():
    """Unseen clients never train, so that four of six are left for Krum, which needs five."""
    with pytest.raises(BadInput, match="at least 5 updates, and a cohort has 4 clients"):
        build_federation(scenario('algorithm.aggregation={kind="krum", attackers=1}', "evaluation.unseen_clients=0.34"))


def test_collected_replies_know_a_job(monkeypatch):
    """An empty round has none, and nothing is combined."""
    federation = build_federation(scenario('algorithm.aggregation.kind="median"'))
    session = type("Session", (), {"federation": federation})
    sums = collect(session, {}, [])
    assert sums.job is None
    assert Combiner(federation).combine(sums.rows, sums.job) is None
