"""Every model of the table in both torch trainers; recurrent and attention layers against Opacus' own."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
from opacus import GradSampleModule
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import nn
from torch.nn import functional

from fedsim.algorithms import FedAvg, LocalTraining
from fedsim.data import Digits
from fedsim.federation import build_federation
from fedsim.loading import parse_scenario
from fedsim.models import MODELS, Lora, build_model
from fedsim.models.attention import MultiheadAttention
from fedsim.models.cnn import Convolution
from fedsim.models.recurrent import LSTM
from fedsim.models.replace import replace_layers
from fedsim.params import vector_of
from fedsim.training import OpacusTrainer, VectorisedTrainer, vectorised
from fedsim.training.native import obstacle
from tests.conftest import EXAMPLE_PRIVACY, SMALL, local_problem, unclipped
from tests.samples import SAMPLES, tasks_of
from tests.training.chains import make_task, make_work

UNEVEN = [[4, 4, 3], [4, 2], [4, 1], [1]]
POISSON = [[3, 0, 5], [0, 0, 2], [6, 1], [0, 0]]
ALGORITHM = FedAvg(local=LocalTraining(learning_rate=0.2))
OPTIONS = {
    "mlp": {"hidden": (16,), "normalisation": "group", "dropout": 0.3},
    "cnn": {"convolutions": (Convolution(4),), "normalisation": "layer", "dropout": 0.3},
    "resnet": {"widths": (4, 6), "dropout": 0.3},
    "lstm": {"hidden": 6, "layers": 2, "dropout": 0.3},
    "transformer": {"width": 8, "heads": 2, "feedforward": 12, "dropout": 0.3},
}


def settings_of(name):
    assert set(OPTIONS.get(name, {})) <= {field.name for field in fields(MODELS[name])}
    return MODELS[name](**OPTIONS.get(name, {}))


def work_of(private, per_layer=False):
    return make_work(POISSON, 1.0, count_noise=2.0, per_layer=per_layer) if private else make_work(UNEVEN)


def trained(trainer, module, task, work):
    return trainer(copy.deepcopy(module), task).train(*local_problem(ALGORITHM, vector_of(module)), work)


def agree(module, task, work):
    fast, slow = (trained(trainer, module, task, work) for trainer in (VectorisedTrainer, OpacusTrainer))
    torch.testing.assert_close(fast.updates, slow.updates, rtol=1e-3, atol=1e-5)
    assert fast.spent == slow.spent
    assert unclipped(fast) == pytest.approx(unclipped(slow))
    assert slow.updates.abs().max() > 1e-3


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("name", MODELS)
def test_the_trainers_agree_on_every_model_and_all_data_that_fit_it(name, private):
    for task in tasks_of(settings_of(name)).values():
        agree(build_model(settings_of(name), task.signature, 0), task, work_of(private))


@pytest.mark.parametrize("name", ["lstm", "transformer", "resnet"])
def test_clipping_per_layer_agrees_with_the_reference(name):
    task = next(iter(tasks_of(settings_of(name)).values()))
    agree(build_model(settings_of(name), task.signature, 0), task, work_of(True, per_layer=True))


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet", "Residual"), ("lstm", "SequenceModel"), ("transformer", "SequenceModel")]
)
def test_the_native_trainer_says_which_layer_it_lacks(name, layer):
    task = next(iter(tasks_of(settings_of(name)).values()))
    reason = obstacle(build_model(settings_of(name), task.signature, 0), task, ALGORITHM, False)
    assert reason == f"no fast kernel for {layer}"


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("sample", ["next character", "images"])
def test_memory_is_bounded_and_chunks_and_slices_change_nothing(sample, private, monkeypatch):
    name = {"next character": "lstm", "images": "resnet"}[sample]
    task = tasks_of(settings_of(name))[sample]
    module, work = build_model(settings_of(name), task.signature, 0), work_of(private)
    whole = trained(VectorisedTrainer, module, task, work).updates
    method, seen = "_example_gradients" if private else "_mapped_gradient", []
    original = getattr(VectorisedTrainer, method)

    def noted(trainer, weights, batch):
        taken = len(weights) * batch.mask.shape[1]
        held = taken * (trainer._mapped_bytes if private else trainer._kept_bytes)
        assert len(weights) == 1 or held <= vectorised.SLICE_BYTES
        assert taken == 1 or held <= vectorised.SLICE_BYTES or not private
        seen.append(taken)
        return original(trainer, weights, batch)

    monkeypatch.setattr(VectorisedTrainer, method, noted)
    for limit in (1, 200_000):
        monkeypatch.setattr(vectorised, "SLICE_BYTES", limit)
        again = trained(VectorisedTrainer, module, task, work).updates
        torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-6)
    assert len(set(seen)) > 1


def test_what_an_example_keeps_is_counted():
    task = tasks_of(MODELS["lstm"]())["rows"]
    for hidden in (16, 64):
        module = build_model(MODELS["lstm"](hidden=hidden), task.signature, 0)
        # Eight steps of four gates, a cell and a state in float32, and little else.
        found = VectorisedTrainer(module, task)._kept_bytes
        assert 8 * 6 * hidden * 4 <= found <= 8 * 8 * hidden * 4 + 2_000


# Against Opacus' own layers


def opacus_gradients(module, x, batch_first=True):
    """Gradients of single examples by name, from Opacus' hooks."""
    wrapped = GradSampleModule(module, loss_reduction="sum", batch_first=batch_first)
    wrapped.forbid_grad_accumulation()
    wrapped(x)[0].sin().sum().backward()
    return {name: p.grad_sample for name, p in module.named_parameters()}


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_of_single_examples_are_those_of_opacus_lstm(layers):
    with torch.random.fork_rng(devices=[]):
        plain, theirs = (kind(3, 5, layers, batch_first=True) for kind in (nn.LSTM, DPLSTM))
    theirs.load_state_dict(plain.state_dict())
    ours, x = LSTM.of(copy.deepcopy(plain)), draw(4, 6, 3)
    expected, found = opacus_gradients(theirs, x), opacus_gradients(ours, x)
    for number in range(layers):
        for own, name in (("inputs", "ih"), ("states", "hh")):
            for part in ("weight", "bias"):
                gradient = expected[f"{part}_{name}_l{number}"]
                assert gradient.shape[0] == 4
                torch.testing.assert_close(found[f"cells.{number}.{own}.{part}"], gradient)


class SelfAttention(nn.Module):
    """Attention to itself, for layers that take three inputs."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x, x)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_gradients_of_single_examples_are_those_of_opacus_attention():
    with torch.random.fork_rng(devices=[]):
        # With batch_first Opacus 1.6 joins the heads in another order than torch.
        theirs, ours = DPMultiheadAttention(8, 2), MultiheadAttention(8, 2, batch_first=True)
    names = {"qlinear": "query", "klinear": "key", "vlinear": "value", "out_proj": "out_proj"}
    for opacus, own in names.items():
        getattr(ours, own).load_state_dict(getattr(theirs, opacus).state_dict())
    x = draw(4, 6, 8)
    expected = opacus_gradients(SelfAttention(theirs), x.transpose(0, 1), batch_first=False)
    found = opacus_gradients(SelfAttention(ours), x)
    for opacus, own in names.items():
        for part in ("weight", "bias"):
            torch.testing.assert_close(found[f"layer.{own}.{part}"], expected[f"layer.{opacus}.{part}"])


class UsersNet(nn.Module):
    """torch's LSTM and encoder layer, as a user would write them."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.mix = nn.TransformerEncoderLayer(12, 2, 7, 0.2, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.mix(self.lstm(x[:, 0])[0]).mean(1))


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_a_users_module_of_torchs_layers_trains_on_both(private):
    with torch.random.fork_rng(devices=[]):
        module = UsersNet()
    replace_layers(module, "own:UsersNet")
    agree(module, make_task((1, 8, 8)), work_of(private))


def test_every_sample_is_of_use():
    """A sample that fits no model would test nothing."""
    used = {sample for name in MODELS for sample in tasks_of(settings_of(name))}
    assert used == set(SAMPLES)


def test_plain_training_of_an_lstm_is_the_textbook_loop():
    module_settings = MODELS["lstm"](hidden=6)
    task = tasks_of(module_settings)["next character"]
    module = build_model(module_settings, task.signature, 0)
    work, start = make_work(UNEVEN), vector_of(module)
    updates = trained(VectorisedTrainer, module, task, work).updates
    for row in range(len(UNEVEN)):
        own = copy.deepcopy(module).train()
        optimizer = torch.optim.SGD(own.parameters(), lr=0.2)
        for step in range(int(work.steps[row])):
            records = torch.from_numpy(work.batch(row, step))
            optimizer.zero_grad()
            outputs, labels = own(task.features[records]), task.labels[records]
            losses = functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none", ignore_index=-1)
            (losses.sum(1) / (labels >= 0).sum(1).clamp(min=1)).mean().backward()
            optimizer.step()
        torch.testing.assert_close(updates[row], vector_of(own) - start, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_low_rank_updates_of_a_recurrent_layer_agree_in_both_trainers(private):
    settings = MODELS["lstm"](hidden=6, lora=Lora(rank=1, targets=("*.states", "*.inputs")))
    task = next(iter(tasks_of(settings).values()))
    agree(build_model(settings, task.signature, 0), task, work_of(private))


@pytest.mark.parametrize(("privacy", "expected"), [("", "opacus"), (EXAMPLE_PRIVACY, "vectorised")])
def test_an_lstm_trains_where_it_was_measured_to_be_quickest(privacy, expected, monkeypatch):
    data = tasks_of(settings_of("lstm"))["next character"].data
    monkeypatch.setattr(Digits, "load", lambda self, seed: data)
    overrides = ["model={name='lstm'}", "population.partition={kind='iid'}", "engine.device=cpu"]
    assert build_federation(parse_scenario(SMALL + privacy, "x", overrides)).trainer_name == expected
