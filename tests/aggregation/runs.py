"""Short runs of a small scenario, and Flower strategies in it."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

import fedsim
from tests.conftest import SMALL

FLWR = "flwr.serverapp.strategy"


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
