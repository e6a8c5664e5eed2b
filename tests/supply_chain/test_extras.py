"""Without a library of an extra, the feature that needs it says with which command it comes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fedsim
from fedsim.data import Parquet
from fedsim.data.columns import Numeric
from fedsim.data.huggingface import HuggingFace
from fedsim.engines.ray_cluster import connected
from fedsim.errors import BadInput
from fedsim.frames import frame
from fedsim.native import build
from fedsim.scenario import EngineSettings
from fedsim.sweeps.tpe import require_optuna
from tests.conftest import SMALL
from tests.supply_chain.locked import EXTRAS


def read_parquet(folder: Path) -> None:
    """A data source."""
    (folder / "t.parquet").touch()
    columns = {"features": (Numeric(name="x", mean=0, std=1),), "label": "y", "classes": ("a", "b")}
    Parquet(path=str(folder / "t.parquet"), test_fraction=0.5, **columns).load(0)


def read_hugging_face(folder: Path) -> None:
    """A data source."""
    HuggingFace(dataset=str(folder), features=("x",), label="y").load(0)


def start_ray(folder: Path) -> None:
    """An engine."""
    with connected(EngineSettings(kind="ray")):
        raise AssertionError("Ray was started")


def find_a_compiler(folder: Path) -> None:
    """The native trainer."""
    build.find_compiler()


def make_a_frame(folder: Path) -> None:
    """A notebook's table."""
    frame([])


def propose_settings(folder: Path) -> None:
    """A sweep by Optuna."""
    require_optuna()


def track(sink: str):
    """A run that is told to another tool."""

    def run(folder: Path) -> None:
        fedsim.run(fedsim.parse_scenario(SMALL, "x", [f"output.sinks=['{sink}']"]), folder / "run")

    return run


def export_parquet(folder: Path) -> None:
    """An export of a finished run."""
    (folder / "summary.json").write_text(json.dumps({}))
    fedsim.export(folder, "parquet")


# By extra and package: as what it is imported, and what needs it.
FEATURES = {
    ("native", "ziglang"): ("ziglang", find_a_compiler),
    ("parquet", "pyarrow"): ("pyarrow", read_parquet),
    ("hf", "datasets"): ("datasets", read_hugging_face),
    ("ray", "ray"): ("ray", start_ray),
    ("tracking", "tensorboard"): ("tensorboard", track("tensorboard")),
    ("tracking", "mlflow-skinny"): ("mlflow", track("mlflow")),
    ("tracking", "wandb"): ("wandb", track("wandb")),
    ("tracking", "pandas"): ("pandas", make_a_frame),
    ("tracking", "pyarrow"): ("pyarrow", export_parquet),
    ("sweep", "optuna"): ("optuna", propose_settings),
}
# What only developers install; every other extra and package must be in the table above.
WITHOUT_FEATURES = {"dev"}


def test_every_package_of_every_extra_is_tried():
    named = {(extra, Requirement(line).name) for extra, lines in EXTRAS.items() for line in lines}
    assert {pair for pair in named if pair[0] not in WITHOUT_FEATURES} == set(FEATURES)


@pytest.mark.parametrize(("extra", "package"), FEATURES)
def test_without_it_the_command_that_installs_it_is_named(extra, package, tmp_path, monkeypatch):
    module, use = FEATURES[extra, package]
    monkeypatch.setitem(sys.modules, module, None)  # whoever imports it is told that it is not there
    monkeypatch.setenv("PATH", str(tmp_path))  # and there is no compiler
    monkeypatch.delenv("CXX", raising=False)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((BadInput, build.NoNative)) as caught:
        use(tmp_path)
    assert f'pip install "fedsim[{extra}]"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == before
