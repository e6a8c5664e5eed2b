"""Sinks and exports, read back by each tool's own reader and compared with the record."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import fedsim
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from fedsim.tracking import SINKS
from fedsim.tracking.settings import Output
from fedsim.tracking.tensorboard import TensorBoard

SMALL = """
seed = 3
rounds = 3
[population]
clients = 4
[model]
name = "mlp"
hidden = []
[cohort]
sampling = { kind = "poisson", rate = 0.7 }
[privacy.client]
clip_norm = 0.5
noise_multiplier = 1.0
delta = 1e-3
[evaluation]
every = 2
"""


@pytest.fixture(autouse=True)
def _no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.running.build_report", lambda path: path)
        return fedsim.run(parse_scenario(SMALL, "small"), tmp_path_factory.mktemp("finished") / "run").directory


def record(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What the record says: every number that was measured, with its round."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in record(run):
        for name, value in row.items():
            if value is not None:
                found.setdefault(name, []).append((row["round"], value))
    return found


def of_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (logs,) = folder.iterdir()
    events = reader.EventAccumulator(str(logs))
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    (said,) = events.Tensors("privacy/text_summary") if "privacy/text_summary" in events.Tags()["tensors"] else (None,)
    (said,) = events.Tensors("privacy") if said is None else (said,)
    text = said.tensor_proto.string_val[0].decode()
    scalars["privacy"] = json.loads("\n".join(line.removeprefix("    ") for line in text.splitlines()))
    return scalars


def of_mlflow(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], Any, dict[str, Any]]:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=folder.resolve().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("fedsim").experiment_id])
    metrics = {
        name: sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    return metrics, run, json.loads((artifacts / "privacy.json").read_text())


def as_single(found: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    return {name: [(step, float(np.float32(value))) for step, value in points] for name, points in found.items()}


def test_the_section_names_every_sink():
    assert list(get_args(get_args(get_type_hints(Output)["sinks"])[0])) == list(SINKS)


def test_live_sinks_receive_what_the_record_receives(tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    text = SMALL + f"[output]\nsinks = ['tensorboard', 'mlflow']\ndirectory = '{tmp_path}/out'\n"
    result = fedsim.run(parse_scenario(text, "small"), tmp_path / "run")
    written = of_tensorboard(tmp_path / "out/tensorboard")
    assert written.pop("privacy")["privacy"] == json.loads(json.dumps(result.privacy))
    assert written == as_single(curves(result.directory))
    metrics, run, privacy = of_mlflow(tmp_path / "out/mlflow")
    assert metrics == curves(result.directory)
    assert privacy["outside"] == result.summary["outside"]
    assert (run.data.params["privacy.client.noise_multiplier"], run.info.status) == ("1.0", "FINISHED")
    assert [each["sink"] for each in result.summary["tracking"]] == ["tensorboard", "mlflow"]
    assert not any("warning" in each for each in result.summary["tracking"])


def test_a_stopped_run_that_goes_on_is_told_once(tmp_path):
    pytest.importorskip("tensorboard")
    text = SMALL + "[output]\nsinks = ['tensorboard']\n"

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt

    stopped = fedsim.run(parse_scenario(text, "small"), tmp_path / "run", stop)
    assert stopped.summary["status"] == "interrupted"
    result = fedsim.resume(tmp_path / "run")
    written = of_tensorboard(tmp_path / "run/tracking/tensorboard")
    del written["privacy"]
    assert written == as_single(curves(result.directory))
    assert [step for step, _ in written["epsilon_client"]] == [1, 2, 3]


@pytest.mark.parametrize("method", ["open", "row", "close"])
def test_a_sink_that_fails_stops_no_run(tmp_path, monkeypatch, caplog, method):
    pytest.importorskip("tensorboard")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(TensorBoard, method, fail)
    monkeypatch.setattr("fedsim.tracking.live.require", lambda *_: None)
    result = fedsim.run(parse_scenario(SMALL + "[output]\nsinks = ['tensorboard']\n", "small"), tmp_path / "run")
    assert (result.exit_code, len(record(result.directory))) == (0, 3)
    (told,) = json.loads((result.directory / "summary.json").read_text())["tracking"]
    assert "the disk is full" in told["warning"]
    assert sum("the disk is full" in line for line in caplog.messages) == 1


def test_sinks_change_no_number(tmp_path, finished):
    pytest.importorskip("tensorboard")
    told = fedsim.run(parse_scenario(SMALL + "[output]\nsinks = ['tensorboard']\n", "small"), tmp_path / "run")
    for row, other in zip(record(told.directory), record(finished), strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_what_is_not_installed_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.extras.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r'output.sinks = "mlflow" needs mlflow, .*: pip install "fedsim\[tracking\]"'):
        fedsim.run(parse_scenario(SMALL + "[output]\nsinks = ['mlflow']\n", "small"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_table_has_every_line_of_the_record(finished, tmp_path):
    with open(fedsim.export(finished, "csv", tmp_path / "csv") / "rounds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, record(finished), strict=True):
        assert list(row) == list(line)
        assert {name: None if value == "" else float(value) for name, value in row.items()} == line


def test_beside_the_table_is_the_summary(finished, tmp_path):
    with open(fedsim.export(finished, "csv", tmp_path / "csv") / "summary.csv", newline="") as file:
        found = {row["key"]: row["value"] for row in csv.DictReader(file)}
    summary = json.loads((finished / "summary.json").read_text())
    (spent,) = summary["privacy"]
    assert float(found["metrics.accuracy"]) == summary["metrics"]["accuracy"]
    assert float(found["privacy.client.epsilon"]) == spent["epsilon"]
    assert float(found["privacy.client.delta"]) == spent["delta"]
    assert float(found["per_class.3.recall"]) == summary["per_class"][3]["recall"]
    assert found["status"] == "completed"


SWEPT = [
    {
        **{"trial": 0, "seed": 0, "values": {"rate": 0.5, "kind": 2}, "status": "completed", "error": None},
        **{"metrics": {"accuracy": 0.75}, "epsilon": {"example": 4.0, "client": None}},
        **{"noise_multiplier": {"example": {"min": 1.0, "max": 2.0}}, "rounds": 3},
    },
    {
        **{
            "trial": 1,
            "seed": 0,
            "values": {"rate": 1.0, "kind": "x"},
            "status": "failed",
            "error": "it was, in short, so",
        },
        **{"metrics": {}, "epsilon": {"example": "inf", "client": None}, "noise_multiplier": {}, "rounds": 0},
    },
]


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    (tmp_path / "swept/runs").mkdir(parents=True)
    (tmp_path / "swept/trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SWEPT[::-1]))
    return tmp_path / "swept"


def test_a_sweep_is_a_table_of_its_runs(swept):
    with open(fedsim.export(swept, "csv") / "table.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["rate"], first["accuracy"], first["epsilon_example"], first["epsilon_client"]) == (
        "0.5",
        "0.75",
        "4.0",
        "",
    )
    assert (first["noise_multiplier_example_max"], first["rounds"]) == ("2.0", "3")
    assert (second["status"], second["error"], second["epsilon_example"]) == ("failed", "it was, in short, so", "inf")
    with pytest.raises(BadInput, match=r"--to tensorboard: .*swept is a sweep; export it to csv or parquet"):
        fedsim.export(swept, "tensorboard")


def test_a_sweep_as_parquet_has_types(swept):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow.parquet")
    frame = pandas.read_parquet(fedsim.export(swept, "parquet") / "table.parquet")
    assert frame["epsilon_example"].tolist() == [4.0, math.inf]
    assert (frame["kind"].tolist(), frame["rounds"].dtype) == (["2", "x"], np.int64)


def test_a_parquet_table_has_types_and_the_summary(finished, tmp_path):
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    file = fedsim.export(finished, "parquet", tmp_path / "parquet") / "rounds.parquet"
    frame = pandas.read_parquet(file)
    for name in ("loss", "epsilon_client"):
        expected = [math.nan if row[name] is None else row[name] for row in record(finished)]
        np.testing.assert_array_equal(frame[name].to_numpy(), expected)
    assert frame["round"].dtype == np.int64
    assert frame["epsilon_example"].isna().all()
    stored = json.loads(pyarrow.read_schema(file).metadata[b"fedsim.summary"])
    assert stored == json.loads((finished / "summary.json").read_text())


@pytest.mark.parametrize("to", ["tensorboard", "mlflow"])
def test_an_export_is_what_a_live_sink_would_have_got(finished, tmp_path, to):
    pytest.importorskip(to)
    folder = fedsim.export(finished, to, tmp_path / to)
    found = of_tensorboard(folder) if to == "tensorboard" else of_mlflow(folder)[0]
    found.pop("privacy", None)
    assert found == (as_single(curves(finished)) if to == "tensorboard" else curves(finished))


def stored_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log of blocks of 32 KiB, behind W&B's seven bytes (checksum, length, type, data)."""
    whole, first, last = 1, 2, 4
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts = (b"" if kind in (whole, first) else parts) + content[at + 7 : at + 7 + length]
        if kind in (whole, last):
            yield parts
        at += 7 + length


def test_an_offline_run_of_wandb(finished, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    (file,) = fedsim.export(finished, "wandb", tmp_path / "wandb").glob("*/wandb/offline-run-*/*.wandb")
    rows = []
    for data in stored_records(file.read_bytes()):
        item = wandb_internal_pb2.Record()
        item.ParseFromString(data)
        if item.HasField("history"):
            line = {(part.key or part.nested_key[0]): json.loads(part.value_json) for part in item.history.item}
            rows.append({name: value for name, value in line.items() if not name.startswith("_")})
    expected = [{name: value for name, value in row.items() if value is not None} for row in record(finished)]
    assert rows == expected


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedsim", "export", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_on_the_command_line(finished, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, str(finished), "--to", "csv", "--out", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    for arguments, words in (
        ([str(finished), "--to", "excel"], "--to excel: must be one of csv, parquet"),
        ([str(tmp_path), "--to", "csv"], "no summary.json"),
        ([str(finished), "--to", "csv", "--out", str(tmp_path / "out")], "exists already"),
        ([str(finished), "--to", "csv", "--out", str(tmp_path / "out/rounds.csv/deeper")], "cannot be written"),
    ):
        assert command(monkeypatch, *arguments) == 2
        assert words in capsys.readouterr().err


def test_what_cannot_be_exported_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/rounds.jsonl").write_text("{\n{}\n")
    with pytest.raises(BadInput, match=r"damaged: .*rounds\.jsonl is not valid JSON"):
        fedsim.export(tmp_path / "run", "csv", tmp_path / "csv")
    (tmp_path / "run/fold-1").mkdir()
    with pytest.raises(BadInput, match="is a cross-validation"):
        fedsim.export(tmp_path / "run", "csv", tmp_path / "csv")
    assert not (tmp_path / "csv").exists()
