"""The project is itself a valid Flower app, with one config key."""

from __future__ import annotations

import tomllib
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.common.config import validate_config
from flwr.serverapp import ServerApp
from flwr.supercore.object_ref import load_app

ROOT = Path(__file__).parents[1]


def test_flower_accepts_the_project():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    valid, errors, _ = validate_config(config)
    assert valid, errors
    app = config["tool"]["flwr"]["app"]
    assert list(app["config"]) == ["scenario"]
    assert (ROOT / app["config"]["scenario"]).is_file()
    assert isinstance(load_app(app["components"]["serverapp"], ValueError, ROOT), ServerApp)
    assert isinstance(load_app(app["components"]["clientapp"], ValueError, ROOT), ClientApp)
