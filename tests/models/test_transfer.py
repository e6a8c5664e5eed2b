"""Transfer: starting from a file, freezing, low-rank updates, and the whole model that a run leaves behind."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import fedsim
from fedsim.client import _host_of
from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from fedsim.models import MODELS, Cnn, Custom, Lora, Mlp, ModelOptions, Signature, build_model
from fedsim.models.lora import LoraLinear
from fedsim.models.transfer import transfer_of, whole_model
from fedsim.params import Layout, vector_of
from fedsim.server import named_parameters
from tests.conftest import EXAMPLE_PRIVACY, SMALL, job_of

SIGNATURE = Signature((1, 8, 8), (10,))


def build(settings, seed=0):
    return build_model(settings, SIGNATURE, seed)


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def saved(tmp_path, settings, seed=5, change=lambda tensors: None):
    """The file of a model, and what it holds."""
    tensors = parameters(build(settings, seed))
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors"), tensors


class Backwards(nn.Module):
    """Its head is defined before its body."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 10)
        self.body = nn.Linear(64, 16)

    def forward(self, x):
        return self.head(torch.relu(self.body(x.flatten(1))))


def test_every_model_of_the_table_has_the_options():
    assert all(issubclass(entry, ModelOptions) for entry in [*MODELS.values(), Custom])


# initial


@pytest.mark.parametrize("settings", [Mlp(), Cnn(), Custom("tests.models.test_transfer:Backwards")])
def test_a_model_starts_from_what_the_file_holds(tmp_path, settings):
    file, tensors = saved(tmp_path, settings)
    start = parameters(build(replace(settings, initial=file)))
    assert start.keys() == tensors.keys()
    assert all(torch.equal(start[name], tensors[name]) for name in tensors)
    assert not torch.equal(vector_of(build(settings)), vector_of(build(replace(settings, initial=file))))


def test_a_run_goes_on_from_another_runs_model(tmp_path):
    first = fedsim.run(parse_scenario(SMALL, "first"), tmp_path / "first")
    file = first.directory / "model.safetensors"
    again = parse_scenario(SMALL, "again", [f"model.initial={file}", "rounds=1", "algorithm.local.learning_rate=1e-12"])
    second = fedsim.run(again, tmp_path / "second")
    assert second.metrics == pytest.approx(first.metrics, rel=1e-6)
    for name, tensor in load_file(second.directory / "model.safetensors").items():
        torch.testing.assert_close(tensor, load_file(file)[name])


def test_everything_that_does_not_fit_is_one_error(tmp_path):
    def change(tensors):
        tensors["1.weight"] = torch.zeros(3, 64)
        tensors["9.weight"] = tensors.pop("4.weight")
        tensors["4.bias"][0] = torch.nan

    file, _ = saved(tmp_path, Mlp(), change=change)
    with pytest.raises(BadInput) as error:
        build(Mlp(initial=file))
    for part in (
        "missing from the file: 4.weight;",
        "in the file only: 9.weight;",
        "of another shape: 1.weight (file [3, 64], model [64, 64]);",
        "not finite floating-point numbers: 4.bias.",
        "initial_skip",
    ):
        assert part in str(error.value)


def test_what_is_skipped_starts_as_without_a_file(tmp_path):
    file, tensors = saved(tmp_path, Cnn(hidden=(5,)))
    start = parameters(build(Cnn(hidden=(7,), initial=file, initial_skip=("head.*",))))
    fresh = parameters(build(Cnn(hidden=(7,))))
    heads = {name for name in start if name.startswith("head.")}
    assert len(heads) == 4
    assert all(torch.equal(start[name], (fresh if name in heads else tensors)[name]) for name in start)


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (("haed.*",), r'initial_skip = "haed\.\*" matches nothing; the nearest names are: head'),
        (("*",), "leaves nothing"),
        (("features.*",), r"of another shape: head\.3\.bias"),
    ],
)
def test_what_cannot_be_skipped_is_said(tmp_path, skip, message):
    signature = Signature((1, 8, 8), (3,))
    file, _ = saved(tmp_path, Cnn())
    with pytest.raises(BadInput, match=message):
        build_model(Cnn(initial=file, initial_skip=skip), signature, 0)


def test_a_pickle_is_not_read(tmp_path):
    torch.save({"1.weight": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(BadInput, match="not a safetensors file"):
        build(Mlp(initial=str(tmp_path / "model.pt")))


def test_a_missing_file_is_said_with_the_folder_it_was_looked_for_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=rf"No such file.*relative to the current folder, {tmp_path}"):
        build(Mlp(initial="nowhere.safetensors"))


@pytest.mark.parametrize("key", ["initial_skip=['*']", f"initial_sha256='{64 * '0'}'"])
def test_options_of_a_file_need_a_file(key):
    with pytest.raises(BadInput, match=r"only used with model\.initial"):
        parse_scenario(SMALL, "x", [f"model.{key}"])


# The file is part of the run


def test_what_a_model_starts_from_is_told_in_plain_values():
    lora = Lora(rank=2, targets=("4",))
    assert transfer_of(Mlp()) is transfer_of(object()) is None
    assert transfer_of(Mlp(initial="x", initial_skip=("4.*",), lora=lora)) == {
        "initial": "x",
        "initial_skip": ("4.*",),
        "lora": {"rank": 2, "alpha": None, "targets": ("4",), "train": None},
    }


def stop_after_one(row):
    raise KeyboardInterrupt


def test_a_run_notes_the_files_digest_and_is_not_resumed_with_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, Mlp(hidden=(8,)))
    content = (tmp_path / "model.safetensors").read_bytes()
    scenario = parse_scenario(SMALL, "x", ["model.initial=model.safetensors", 'model.freeze=["1.*"]'])
    whole = fedsim.run(scenario, "whole")
    fedsim.run(scenario, "stopped", stop_after_one)
    assert fedsim.load_scenario("stopped/scenario.toml").model.initial_sha256 == (hashlib.sha256(content).hexdigest())
    saved(tmp_path, Mlp(hidden=(8,)), seed=6)
    with pytest.raises(BadInput, match="holds something else than this run started from"):
        fedsim.resume("stopped")
    (tmp_path / "model.safetensors").write_bytes(content)
    fedsim.resume("stopped")
    assert [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")] == [
        (whole.directory / "model.safetensors").read_bytes()
    ] * 2


def test_the_command_line_goes_on_with_a_run_from_the_same_file(tmp_path, monkeypatch, capsys):
    from fedsim.cli import main

    monkeypatch.chdir(tmp_path)
    saved(tmp_path, Mlp(hidden=(8,)))
    (tmp_path / "x.toml").write_text(SMALL.replace("hidden = [8]", 'hidden = [8]\ninitial = "model.safetensors"'))
    monkeypatch.setattr("sys.argv", ["fedsim", "run", "x.toml", "--out", "run", "--quiet"])
    with pytest.raises(SystemExit, match="0"):
        main()
    monkeypatch.setattr("sys.argv", [*sys.argv, "--resume"])
    with pytest.raises(SystemExit, match="0"):
        main()
    saved(tmp_path, Mlp(hidden=(8,)), seed=6)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "another scenario" in capsys.readouterr().err


def test_a_client_elsewhere_notices_another_file(tmp_path, federation):
    file, _ = saved(tmp_path, Mlp(hidden=(8,)))
    made = federation(f"model.initial={file}")
    job = replace(job_of(made), scenario=made.scenario.to_toml())
    assert torch.equal(_host_of(job).federation.start, made.start)
    saved(tmp_path, Mlp(hidden=(8,)), seed=6)
    fedsim.client._hosted.clear()
    with pytest.raises(BadInput, match="SHA-256"):
        _host_of(job)


def test_the_statement_says_that_the_file_is_not_covered(tmp_path):
    file, _ = saved(tmp_path, Mlp(hidden=(8,)))
    scenario = parse_scenario(SMALL + EXAMPLE_PRIVACY, "x", [f"model.initial={file}", "rounds=1"])
    result = fedsim.run(scenario, tmp_path / "run")
    assert "what they were trained on is not covered" in json.dumps(result.summary)


# freeze


def test_frozen_parameters_are_neither_trained_nor_sent_but_saved(tmp_path):
    overrides = ['model={name="cnn", freeze=["features.*"]}', "rounds=2"]
    result = fedsim.run(parse_scenario(SMALL + EXAMPLE_PRIVACY, "x", overrides), tmp_path / "run")
    start, end = parameters(build(Cnn(), seed=3)), load_file(tmp_path / "run/model.safetensors")
    assert start.keys() == end.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {name for name in start if name.startswith("head.")}
    sent = sum(start[name].numel() for name in changed)
    row = json.loads((tmp_path / "run/rounds.jsonl").read_text().splitlines()[0])
    assert row["bytes_down"] == 6 * 4 * sent
    checkpoint = load_file(sorted((tmp_path / "run/checkpoint").iterdir())[-1])
    assert checkpoint["params"].numel() == sent
    assert result.summary["rounds"] == 2
    total = sum(values.numel() for values in end.values())
    assert (result.summary["parameters"], result.summary["parameters_total"]) == (sent, total)
    assert result.summary["transfer"] == {"freeze": ["features.*"]}
    assert (
        f"with {total:,} parameters, of which {sent:,} were trained," in (result.directory / "report.html").read_text()
    )


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("feature.*",), r'model\.freeze = "feature\.\*" matches nothing; the nearest names are: features\.0\.weight'),
        (("head.*", "zzz"), r'"zzz" matches nothing; the nearest names are: features\.0\.weight, .*head\.3\.bias'),
        (("*",), "leaves nothing to train"),
    ],
)
def test_patterns_that_make_no_sense_are_one_error(patterns, message):
    with pytest.raises(BadInput, match=message):
        build(Cnn(freeze=patterns))


# lora


def test_a_low_rank_update_starts_as_the_model_was():
    lora = Lora(rank=2, alpha=6.0, targets=("head.*",))
    module, plain = build(Cnn(lora=lora)).eval(), build(Cnn()).eval()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(x), plain(x))
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    updates = {f"head.{i}.{part}.weight" for i in (0, 3) for part in ("up", "down")}
    assert trained == updates
    beside = build(Cnn(lora=replace(lora, train=("features.0.*",))))
    whole = {f"features.0.{part}" for part in ("weight", "bias")}
    assert {name for name, p in beside.named_parameters() if p.requires_grad} == updates | whole
    assert module.head[0].scale == 3.0
    assert whole_model(module, vector_of(module)).keys() == parameters(plain).keys()


@pytest.mark.parametrize("settings", [Mlp(), Custom("tests.models.test_transfer:Backwards"), Custom("torch.nn:Linear")])
def test_the_merged_model_gives_the_same_outputs(settings):
    signature = SIGNATURE
    if settings.name == "torch.nn:Linear":  # the model is itself the target
        settings = replace(settings, settings={"in_features": 6, "out_features": 10})
        signature = Signature((6,), (10,))
    module = build_model(replace(settings, lora=Lora(rank=3, targets=("*",))), signature, 0).eval()
    flat = torch.randn(Layout.of(module).size, generator=torch.Generator().manual_seed(2))
    tensors, plain = whole_model(module, flat), build_model(settings, signature, 1).eval()
    plain.load_state_dict(tensors)
    x = torch.rand(4, *signature.inputs, generator=torch.Generator().manual_seed(1))
    values = Layout.of(module).views(flat)
    expected = torch.func.functional_call(module, values, (x,))
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-4)
    assert (expected - module(x)).abs().max() > 0.1


def test_a_runs_merged_model_loads_anywhere(tmp_path):
    lora = 'model.lora={rank=2, targets=["*"]}'
    scenario = parse_scenario(SMALL + EXAMPLE_PRIVACY, "x", [lora])
    run = fedsim.run(scenario, tmp_path / "run")
    assert run.summary["trainer"] == "vectorised"
    file = tmp_path / "run/model.safetensors"
    next_ = parse_scenario(SMALL, "y", [f"model.initial={file}", "rounds=1", "algorithm.local.learning_rate=1e-12"])
    assert fedsim.run(next_, tmp_path / "next").metrics == pytest.approx(run.metrics, rel=1e-4)


def test_the_first_update_does_not_repeat_the_first_layers_weights():
    """Both are drawn by the INIT stream."""
    module = build(Mlp(lora=Lora(rank=64, targets=("1",))))
    layer = module[1]
    assert isinstance(layer, LoraLinear)
    assert layer.down.weight.shape == layer.base.weight.shape
    both = torch.stack([layer.down.weight.flatten(), layer.base.weight.flatten()])
    assert torch.corrcoef(both)[0, 1].abs() < 0.1
    again, other = (build(Mlp(lora=Lora(rank=64, targets=("1",))), seed)[1].down.weight for seed in (0, 1))
    assert torch.equal(layer.down.weight, again)
    assert not torch.equal(again, other)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (Lora(rank=2, targets=("hd.*",)), r"matches nothing; the nearest names are: head\.0, head\.3"),
        (Lora(rank=2, targets=("features.*",)), "matches nothing"),
        (Lora(rank=11, targets=("head.*",)), "rank is at most 10"),
    ],
)
def test_targets_must_be_linear_layers_of_that_rank(lora, message):
    with pytest.raises(BadInput, match=message):
        build(Cnn(lora=lora))


def tied():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, second, nn.Linear(64, 10))


def test_a_shared_weight_is_no_target():
    with pytest.raises(BadInput, match="used by another layer"):
        build(Custom("tests.models.test_transfer:tied", lora=Lora(rank=2, targets=("1",))))


def test_all_frozen_but_the_low_rank_updates(tmp_path, federation):
    made = federation('model={name="mlp", freeze=["*"], lora={rank=1, targets=["4"]}}')
    assert Layout.of(made.module).names == ("4.down.weight", "4.up.weight")
    assert named_parameters(made, made.start).keys() == {"1.weight", "1.bias", "4.weight", "4.bias"}
