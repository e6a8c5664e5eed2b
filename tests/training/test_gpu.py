"""On a CUDA device: the same numbers as on the CPU, to float tolerance."""

from __future__ import annotations

import pytest
import torch

import fedsim
from fedsim.client import train_clients
from fedsim.federation import build_federation
from fedsim.loading import parse_scenario
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
]
MODELS = {
    "mlp": 'model={name="mlp", hidden=[8], dropout=0.3}',
    "cnn": 'model={name="cnn", convolutions=[{channels=4}], hidden=[8], dropout=0.3}',
}


@pytest.mark.parametrize("trainer", ["vectorised", "opacus"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY, CLIENT_PRIVACY], ids=["none", "example", "client"])
def test_a_round_has_the_same_sum_on_both_devices(privacy, model, trainer):
    totals = []
    for device in ("cpu", "cuda"):
        overrides = [MODELS[model], f"engine.trainer={trainer}", f"engine.device={device}"]
        federation = build_federation(parse_scenario(SMALL + privacy, "small", overrides))
        assert federation.device.type == device
        totals.append(torch.from_numpy(train_clients(federation, job_of(federation)).total))
    torch.testing.assert_close(*totals, rtol=1e-3, atol=1e-4 * float(totals[0].abs().max()))


def test_the_key_stream_is_the_same_on_both_devices():
    keystream, clients = Keystream.of("reproducible", 3, 1), torch.arange(5)
    for draw in (keystream.bits, keystream.normals):
        cpu, cuda = (draw(Stream.NOISE, clients.to(device), 2, 1000) for device in ("cpu", "cuda"))
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-12, atol=1e-12)


def test_a_run_on_the_device_ends_where_one_on_the_cpu_does(tmp_path):
    results = []
    for device in ("cpu", "cuda"):
        scenario = parse_scenario(SMALL, "small", ["engine.trainer=vectorised", f"engine.device={device}"])
        results.append(fedsim.run(scenario, tmp_path / device))
    cpu, cuda = results
    assert cuda.summary["device"] == "cuda"
    assert cuda.metrics["loss"] == pytest.approx(cpu.metrics["loss"], rel=1e-3)
