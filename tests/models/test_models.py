"""Models: shapes, seeds, settings that take effect, users' own modules, and the flat vector of their parameters."""

from __future__ import annotations

import random
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.errors import BadInput
from fedsim.models import MODELS as EVERY_MODEL
from fedsim.models import Cnn, Custom, Mlp, Signature, build_model
from fedsim.models.cnn import Convolution
from fedsim.models.layers import ACTIVATIONS, Dropout, dropout_layers
from fedsim.models.replace import replace_layers
from fedsim.params import Layout, bind_vector, vector_of
from tests.samples import examples_of, signatures_of

SHAPE = (1, 8, 8)
# An autoencoder returns what it takes: see test_autoencoder.py.
MODELS = {name: entry for name, entry in EVERY_MODEL.items() if name != "autoencoder"}
INITIALISATIONS = ("default", "normal", "xavier", "he", "orthogonal")


def having(setting):
    """Names of the models that have this setting; others need not."""
    return [name for name, entry in MODELS.items() if setting in {field.name for field in fields(entry)}]


def every_model(**changes):
    known = {name: {key: changes[key] for key in changes if name in having(key)} for name in MODELS}
    return [entry(**known[name]) for name, entry in MODELS.items()]


def batch(records=5, shape=SHAPE):
    return torch.rand(records, *shape, generator=torch.Generator().manual_seed(1))


def weights_of(module):
    return [layer.weight.detach() for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


# Every entry of the table


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_outputs_of_its_signature_for_every_example(name):
    for signature in signatures_of(MODELS[name]()):
        module = build_model(MODELS[name](), signature, seed=0)
        for records in (1, 4):
            result = module.eval()(examples_of(signature, records))
            assert result.shape == (records, *signature.outputs)
            assert result.dtype == torch.float32
        assert all(p.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_an_examples_output_does_not_depend_on_the_others_in_the_batch(name):
    for signature in signatures_of(MODELS[name]()):
        module, examples = build_model(MODELS[name](), signature, seed=0).eval(), examples_of(signature)
        alone = torch.cat([module(row[None]) for row in examples])
        torch.testing.assert_close(module(examples), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", having("initialisation"))
@pytest.mark.parametrize("how", INITIALISATIONS)
def test_the_first_parameters_depend_on_the_seed_alone(name, how):
    settings = MODELS[name](initialisation=how)
    for signature in signatures_of(settings):
        first, again, other = (vector_of(build_model(settings, signature, seed)) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert (first != other).float().mean() > 0.8


@pytest.mark.parametrize("how", INITIALISATIONS)
def test_building_a_model_leaves_every_global_generator_as_it_was(how):
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002
    python_state = random.getstate()
    for model in every_model(initialisation=how, dropout=0.5):
        build_model(model, signatures_of(model)[0], seed=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tobytes() == numpy_state[1].tobytes()  # noqa: NPY002
    assert random.getstate() == python_state


def test_the_first_parameters_do_not_depend_on_the_global_generator():
    settings = Cnn()
    first = vector_of(build_model(settings, Signature(SHAPE, (10,)), 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        second = vector_of(build_model(settings, Signature(SHAPE, (10,)), 0))
    assert torch.equal(first, second)


# Settings take effect


@pytest.mark.parametrize("name", having("activation"))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_is_the_one_named(name, activation):
    settings = MODELS[name](activation=activation)
    module = build_model(settings, signatures_of(settings)[0], 0)
    used = {type(layer) for layer in module.modules() if isinstance(layer, tuple(ACTIVATIONS.values()))}
    assert used == {ACTIVATIONS[activation]}


def test_an_mlp_is_the_obvious_product_of_its_matrices():
    module = build_model(Mlp(hidden=(7, 5), activation="tanh"), Signature(SHAPE, (3,)), 0).eval()
    (w1, b1), (w2, b2), (w3, b3) = [(x.weight, x.bias) for x in module.modules() if isinstance(x, nn.Linear)]
    x = batch().reshape(5, 64)
    expected = torch.tanh(torch.tanh(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(module(batch()), expected, rtol=1e-5, atol=1e-6)
    assert (w1.shape, w2.shape, w3.shape) == ((7, 64), (5, 7), (3, 5))


def test_an_mlp_without_hidden_layers_is_logistic_regression():
    module = build_model(Mlp(hidden=()), Signature(SHAPE, (10,)), 0)
    assert [tuple(p.shape) for p in module.parameters()] == [(10, 64), (10,)]
    linear = next(layer for layer in module.modules() if isinstance(layer, nn.Linear))
    torch.testing.assert_close(module(batch()), batch().reshape(5, 64) @ linear.weight.T + linear.bias)


def test_opacus_mnist_example_has_its_26010_parameters():
    convolutions = (
        Convolution(16, kernel=8, stride=2, padding=3, pool=2, pool_stride=1),
        Convolution(32, kernel=4, stride=2, padding=0, pool=2, pool_stride=1),
    )
    module = build_model(Cnn(convolutions=convolutions, hidden=(32,)), Signature((1, 28, 28), (10,)), 0)
    assert vector_of(module).numel() == 26_010

    class SampleConvNet(nn.Module):
        """The network of Opacus' examples/mnist.py."""

        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                self.conv1, self.conv2 = nn.Conv2d(1, 16, 8, 2, padding=3), nn.Conv2d(16, 32, 4, 2)
                self.fc1, self.fc2 = nn.Linear(32 * 4 * 4, 32), nn.Linear(32, 10)

        def forward(self, x):
            x = nn.functional.max_pool2d(nn.functional.relu(self.conv1(x)), 2, 1)
            x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), 2, 1)
            return self.fc2(nn.functional.relu(self.fc1(x.view(-1, 32 * 4 * 4))))

    theirs = SampleConvNet()
    bind_vector(theirs, vector_of(module))
    images = batch(3, (1, 28, 28))
    torch.testing.assert_close(module.eval()(images), theirs(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("convolution", "shape"),
    [
        (Convolution(4, kernel=9, padding=0), (1, 8, 8)),
        (Convolution(4, kernel=8, padding=0, pool=2), (1, 8, 8)),
        (Convolution(4, pool=2), (1, 1, 1)),
    ],
)
def test_a_convolution_that_does_not_fit_the_image_is_refused(convolution, shape):
    with pytest.raises(BadInput, match=r"model\.convolutions do not fit"):
        build_model(Cnn(convolutions=(convolution,)), Signature(shape, (10,)), 0)


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 2, 8, 8)])
def test_a_cnn_refuses_what_is_no_image(shape):
    with pytest.raises(BadInput, match="needs images"):
        build_model(Cnn(), Signature(shape, (10,)), 0)


def test_xavier_weights_are_uniform_in_glorots_interval():
    module = build_model(Mlp(hidden=(200,), initialisation="xavier"), Signature(SHAPE, (10,)), 0)
    for weight in weights_of(module):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize(("how", "deviation"), [("normal", lambda fan: 0.05), ("he", lambda fan: (2 / fan) ** 0.5)])
@pytest.mark.parametrize("model", [Mlp(hidden=(300, 100)), Cnn(convolutions=(Convolution(40), Convolution(60)))])
def test_weights_have_the_published_standard_deviation_and_biases_are_zero(how, deviation, model):
    settings = type(model)(**{**vars(model), "initialisation": how})
    module = build_model(settings, Signature(SHAPE, (10,)), 0)
    for weight in weights_of(module):
        # The sample deviation of n normal values is within 5 / sqrt(2 n): false alarm below 10^-6 a layer.
        expected = deviation(weight[0].numel())
        assert float(weight.std()) == pytest.approx(expected, rel=5 / (2 * weight.numel()) ** 0.5)
    assert all((layer.bias == 0).all() for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d))


@pytest.mark.parametrize("name", having("initialisation"))
def test_orthogonal_rows_or_columns_are_orthonormal(name):
    settings = MODELS[name](initialisation="orthogonal")
    for weight in weights_of(build_model(settings, signatures_of(settings)[0], 0)):
        matrix = weight.flatten(1)
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=0, atol=1e-5)


# Dropout


@pytest.mark.parametrize("name", having("dropout"))
def test_dropout_is_off_in_evaluation_and_needs_a_mask_in_training(name):
    signature = signatures_of(MODELS[name]())[0]
    with_it, without = (build_model(MODELS[name](dropout=p), signature, 0) for p in (0.4, 0.0))
    examples = examples_of(signature)
    assert [layer.p for layer in dropout_layers(with_it)] == [0.4] * len(dropout_layers(with_it))
    assert dropout_layers(with_it)
    assert not dropout_layers(without)
    torch.testing.assert_close(with_it.eval()(examples), without.eval()(examples))
    without.train()(examples)
    with pytest.raises(RuntimeError, match="mask"):
        with_it.train()(examples)


def test_dropout_multiplies_by_the_mask_that_was_set():
    layer = Dropout(0.5).train()
    layer.mask = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert layer(x).tolist() == [[0.0, 4.0], [6.0, 0.0]]
    assert layer.eval()(x) is x


# A user's own module

OWN = """
import torch
from torch import nn

class Good(nn.Module):
    def __init__(self, width=4, p=0.5):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Dropout(p), nn.Linear(width, 10))
        self.inner = nn.ModuleDict({"deep": nn.Sequential(nn.Sequential(nn.Dropout(0.25)))})
    def forward(self, x):
        return self.inner["deep"](self.net(x))

class Double(Good):
    def __init__(self):
        super().__init__()
        self.double()

class Frozen(Good):
    def __init__(self):
        super().__init__()
        for p in self.parameters():
            p.requires_grad_(False)

def no_parameters():
    return nn.Flatten()

def eleven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 11))

def wrong_input():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))

def no_module():
    return 3

def raises():
    raise ZeroDivisionError("by nought")

class Tuple(Good):
    def forward(self, x):
        return super().forward(x), None

class Scalar(Good):
    def forward(self, x):
        return super().forward(x).sum()

class Functional(Good):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)

class Spatial(Good):
    def __init__(self):
        super().__init__()
        self.spatial = nn.Dropout2d(0.5)
    def forward(self, x):
        return super().forward(self.spatial(x))

class Twice(Good):
    def forward(self, x):
        return self.inner["deep"](super().forward(x))

class Unused(Good):
    def __init__(self):
        super().__init__()
        self.unused = nn.Dropout(0.5)

class WrongInTraining(Good):
    def forward(self, x):
        return super().forward(x.double() if self.training else x)

constant = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's file in the current folder; gives ``own("Class")``, the settings that name it."""
    (tmp_path / "own_models.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("def oops(:\n")
    (tmp_path / "own_raising.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda name, **given: Custom(f"own_models:{name}", given)
    for module in ("own_models", "own_broken", "own_raising"):
        sys.modules.pop(module, None)


def test_a_users_module_in_the_current_folder_is_built_with_its_settings(own):
    module = build_model(own("Good", width=6), Signature(SHAPE, (10,)), seed=0)
    assert weights_of(module)[0].shape == (6, 64)
    assert module(batch()).shape == (5, 10)
    again = build_model(own("Good", width=6), Signature(SHAPE, (10,)), seed=0)
    assert torch.equal(vector_of(module), vector_of(again))
    assert not torch.equal(
        vector_of(module), vector_of(build_model(own("Good", width=6), Signature(SHAPE, (10,)), seed=1))
    )


def test_a_users_module_is_trained_in_float32(own):
    assert {p.dtype for p in build_model(own("Double"), Signature(SHAPE, (10,)), 0).parameters()} == {torch.float32}


def test_torchs_dropout_in_a_users_module_is_replaced_at_every_depth(own):
    module = build_model(own("Good", p=0.3), Signature(SHAPE, (10,)), seed=0)
    assert not [layer for layer in module.modules() if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in dropout_layers(module)] == [0.3, 0.25]


def test_replacing_dropout_leaves_the_other_layers_alone():
    module = nn.Sequential(nn.ReLU(), nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.2), nn.Tanh()))
    kept = [module[0], module[2], module[2][1]]
    replace_layers(module, "own")
    assert [module[0], module[2], module[2][1]] == kept
    assert [layer.p for layer in dropout_layers(module)] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("own_missing:Good", "cannot be imported: No module named 'own_missing'"),
        ("own_models:Missing", "cannot be imported: module 'own_models' has no attribute 'Missing'"),
        ("own_models:", "cannot be imported"),
        (":Good", "cannot be imported"),
        ("..own_models:Good", "cannot be imported"),
        ("own_broken:x", "cannot be imported: invalid syntax"),
        ("own_raising:x", "cannot be imported: division by zero"),
        ("own_models:constant", "could not be built"),
        ("own_models:raises", "could not be built: by nought"),
        ("own_models:no_module", "returned a int, not a torch.nn.Module"),
        ("own_models:no_parameters", "has no trainable parameter"),
        ("own_models:Frozen", "has no trainable parameter"),
        ("own_models:eleven", "returns [2, 11] for 2 examples; the task needs [2, 10]"),
        ("own_models:wrong_input", "does not accept examples of [1, 8, 8]"),
        ("own_models:Tuple", "returns a tuple"),
        ("own_models:Scalar", "returns [] for 2 examples"),
        ("own_models:Functional", "draws from torch's global random generator in training"),
        ("own_models:Spatial", "draws from torch's global random generator in training"),
        ("own_models:Twice", "passes a torch.nn.Dropout 2 times"),
        ("own_models:Unused", "passes a torch.nn.Dropout 0 times"),
        ("own_models:WrongInTraining", "does not accept examples of [1, 8, 8]"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_users_module_that_cannot_serve_is_refused_by_name(path, words):
    with pytest.raises(BadInput) as caught:
        build_model(Custom(path), Signature(SHAPE, (10,)), seed=0)
    assert f'model.name = "{path}"' in str(caught.value)
    assert words in str(caught.value)


def test_settings_that_a_users_class_does_not_take_are_refused(own):
    with pytest.raises(BadInput, match=r"could not be built: .*widht"):
        build_model(own("Good", widht=3), Signature(SHAPE, (10,)), 0)


def test_a_dropout_layer_that_stands_in_two_places_becomes_two():
    shared = nn.Dropout(0.3)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    replace_layers(module, "own")
    assert [layer.p for layer in dropout_layers(module)] == [0.3, 0.3]
    assert module[0] is not module[2]


# The flat vector


class Odd(nn.Module):
    """Parameters of zero, one, two and four dimensions, an empty one, a frozen one and a shared one."""

    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(2)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.row = nn.Parameter(torch.randn(3, generator=rng))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.kernel = nn.Parameter(torch.randn(2, 3, 1, 2, generator=rng))
        self.empty = nn.Parameter(torch.zeros(0, 5))
        self.shared = self.row
        self.matrix = nn.Parameter(torch.randn(2, 2, generator=rng).T)  # not contiguous


def test_the_vector_holds_every_trainable_value_in_the_order_of_named_parameters():
    module = Odd()
    vector = vector_of(module)
    trainable = [p for _, p in module.named_parameters() if p.requires_grad]
    expected = [float(value) for p in trainable for value in p.detach().flatten()]
    assert vector.tolist() == expected
    assert Layout.of(module).sizes == [1, 3, 12, 0, 4]
    assert Layout.of(module).size == len(vector) == 20
    assert not vector.requires_grad


def test_the_vector_is_a_copy():
    module = Odd()
    vector_of(module).zero_()
    assert module.scale.item() == 1.5


def test_binding_a_vector_gives_it_back_and_leaves_frozen_parameters_alone():
    module = Odd()
    vector = torch.arange(20.0)
    bind_vector(module, vector)
    assert torch.equal(vector_of(module), vector)
    assert module.scale.shape == ()
    assert module.kernel.shape == (2, 3, 1, 2)
    assert module.shared is module.row
    assert module.frozen.tolist() == [1, 1, 1, 1]


def test_a_bound_module_sees_later_writes_to_the_vector():
    module = Odd()
    vector = torch.zeros(20)
    bind_vector(module, vector)
    vector += 7
    trainable = [p for p in module.parameters() if p.requires_grad]
    assert all((p == 7).all() for p in trainable)
    assert all(p.data_ptr() >= vector.data_ptr() for p in trainable if p.numel())
    assert module.scale.data_ptr() == vector.data_ptr()


@pytest.mark.parametrize("name", MODELS)
def test_a_bound_model_computes_with_the_bound_values(name):
    settings = MODELS[name](initialisation="normal")
    signature = signatures_of(settings)[0]
    first, second = (build_model(settings, signature, seed).eval() for seed in (0, 1))
    examples = examples_of(signature)
    assert not torch.allclose(first(examples), second(examples))
    bind_vector(first, vector_of(second))
    torch.testing.assert_close(first(examples), second(examples))


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=5),
    lead=st.lists(st.integers(1, 3), max_size=2).map(tuple),
)
def test_views_and_flatten_undo_each_other_for_any_shapes(shapes, lead):
    layout = Layout(tuple(f"p{number}" for number in range(len(shapes))), tuple(shapes))
    flat = torch.arange(float(np.prod(lead, dtype=int) * layout.size)).reshape(*lead, layout.size)
    views = layout.views(flat)
    assert [tuple(view.shape) for view in views.values()] == [(*lead, *shape) for shape in shapes]
    assert torch.equal(layout.flatten(views, lead=len(lead)), flat)
    if not lead:
        assert all(view.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr() for view in views.values())


@pytest.mark.parametrize("made", [MODELS["mlp"](hidden=(10**14,)), MODELS["lstm"](embedding=10**14)])
def test_a_model_that_no_memory_holds_is_bad_input(made):
    signature = Signature((5,), (2,), 9) if made.name == "lstm" else Signature((5,), (2,))
    with pytest.raises(BadInput, match="cannot be built"):
        build_model(made, signature, 0)
