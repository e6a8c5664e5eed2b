"""No pickle is ever loaded from a file or a message: no source of fedsim could, and none that is offered runs."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array

import fedsim
from fedsim.cli import app
from fedsim.data.cifar10 import BATCHES, Cifar10
from fedsim.data.npz import Npz
from fedsim.deployment.guard import _read
from fedsim.deployment.wire import unpack_evaluation
from fedsim.errors import FedsimError
from fedsim.messages import MalformedMessage, TrainJob, pack_job, unpack_job
from fedsim.models import Mlp
from fedsim.models.initial import load_initial
from fedsim.record import RunDirectory
from tests.fuzzing.files import npy, zipped
from tests.fuzzing.wire import KINDS

SOURCES = Path(fedsim.__file__).parent
# Modules that read what can run code.
UNSAFE = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle"}
UNSAFE |= {"torch.load", "torch.jit.load", "torch.hub", "numpy.lib.npyio", "pandas.read_pickle", "torch.serialization"}
# The restricted reader of CIFAR-10's published batches; what it may be told is tested in tests/data/test_unpickling.py.
EXPLAINED = {("data/unpickling.py", "pickle")}


def names_of(tree: ast.AST) -> dict[str, str]:
    """What each name at hand stands for, by the imports of the file."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name of ``a.b.c``, or the last part of what is no plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    return f"{dotted(node.value, names)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def unsafe(source: str, file: str = "x.py") -> Iterator[str]:
    """What in a source could load a pickle, or run a text, one line each."""
    tree = ast.parse(source)
    names = names_of(tree)
    for target in names.values():
        for module in UNSAFE:
            if f"{target}.".startswith(f"{module}.") and (file, module) not in EXPLAINED:
                yield f"{file} imports {target}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from judged(node, dotted(node.func, names), file)


def judged(call: ast.Call, name: str, file: str) -> Iterator[str]:
    """Why a call could load a pickle or run a text."""
    allowed = {word.arg: ast.unparse(word.value) for word in call.keywords}
    last = name.rpartition(".")[2]
    if name.startswith("numpy.") and last == "load" and allowed.get("allow_pickle") != "False":
        yield f"{file}:{call.lineno} calls numpy.load without allow_pickle=False"
    if allowed.get("allow_pickle", "False") != "False":
        yield f"{file}:{call.lineno} calls {name} with allow_pickle"
    if name in ("torch.load", "torch.jit.load", "eval", "exec", "compile", "pandas.read_pickle"):
        yield f"{file}:{call.lineno} calls {name}"
    if name.endswith((".read_array", "npyio.NpzFile")):
        yield f"{file}:{call.lineno} calls {name}, which can unpickle"


def test_no_source_of_fedsim_can_load_a_pickle():
    files = sorted(SOURCES.rglob("*.py"))
    assert len(files) > 300
    found = [line for file in files for line in unsafe(file.read_text(), str(file.relative_to(SOURCES)))]
    assert found == []


def test_the_one_reader_of_pickles_is_restricted():
    """It is derived from pickle's own, and every name that a pickle may hold passes through its table."""
    ((file, module),) = EXPLAINED
    text = (SOURCES / file).read_text()
    assert list(unsafe(text)) == [f"x.py imports {module}"]
    tree = ast.parse(text)
    uses = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and dotted(node.value, {}) == "pickle"
    }
    assert uses == {"UnpicklingError", "_Unpickler"}
    (reader,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.bases and "pickle" in ast.unparse(node.bases[0])
    ]
    assert {"find_class", "get_extension"} <= {each.name for each in reader.body if isinstance(each, ast.FunctionDef)}


SNIPPETS = {
    "import pickle": 1,
    "from pickle import loads": 1,
    "import joblib as j\nj.load(x)": 1,
    "import yaml\nyaml.load(x)": 1,
    "import numpy as np\nnp.load(x)": 1,
    "import numpy as np\nnp.load(x, allow_pickle=True)": 2,
    "from numpy import load\nload(x)": 1,
    "import numpy as np\nnp.load(x, allow_pickle=False)": 0,
    "import torch\ntorch.load(x, weights_only=True)": 1,
    "from torch import load": 1,
    "from numpy.lib import format as npy\nnpy.read_array(x)": 1,
    "import marshal, shelve": 2,
    "eval(x)": 1,
    "import json\njson.loads(x)": 0,
}


@pytest.mark.parametrize("source", SNIPPETS)
def test_what_could_load_a_pickle_is_seen(source):
    assert len(list(unsafe(source))) == SNIPPETS[source]


# None that is offered is run


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def payloads(mark: Path) -> dict[str, bytes]:
    """A pickle as it is, as torch saves it, and within an array of objects."""
    saved, objects = io.BytesIO(), io.BytesIO()
    torch.save({"w": Bomb(mark)}, saved)
    np.save(objects, np.array([Bomb(mark)], object), allow_pickle=True)
    plain = pickle.dumps({"data": Bomb(mark), "labels": [1]}, 2)
    return {"pickle": plain, "torch": saved.getvalue(), "npy": objects.getvalue()}


def test_the_payloads_are_armed(tmp_path):
    """Each does what it must not where pickles are loaded."""
    loads = {
        "pickle": pickle.loads,
        "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
        "npy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    }
    for kind, load in loads.items():
        load(payloads(tmp_path / kind)[kind])
        assert (tmp_path / kind).is_dir()


@pytest.mark.parametrize("kind", ["pickle", "torch", "npy"])
def test_no_file_that_fedsim_reads_runs_a_pickle(tmp_path, kind):
    mark = tmp_path / "mark"
    data = payloads(mark)[kind]
    labels = npy(np.arange(4))
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        (tmp_path / "a.npz").write_bytes(zipped({"x_train.npy": data, "y_train.npy": labels}, how))
        refused(lambda: Npz(str(tmp_path / "a.npz")).load(0))
        (tmp_path / "1.npz").write_bytes(zipped({"head.npy": data, "total.npy": data}, how))
        refused(lambda: _read(tmp_path / "1.npz"))
    (tmp_path / "a.npz").write_bytes(data)
    refused(lambda: Npz(str(tmp_path / "a.npz")).load(0))
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x_train.npy").write_bytes(data)
    (tmp_path / "f" / "y_train.npy").write_bytes(labels)
    refused(lambda: Npz(str(tmp_path / "f")).load(0))
    for name in BATCHES:
        (tmp_path / name).write_bytes(data)
    refused(lambda: Cifar10(path=str(tmp_path)).load(0))
    (tmp_path / "m.safetensors").write_bytes(data)
    module = torch.nn.utils.skip_init(torch.nn.Linear, 2, 2)
    refused(lambda: load_initial(module, Mlp(initial=str(tmp_path / "m.safetensors"))))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch", "npy"])
def test_no_run_directory_runs_a_pickle(tmp_path, kind):
    """A checkpoint, a model, a ledger, a summary: all are tried, one after the other."""
    mark = tmp_path / "mark"
    data = payloads(mark)[kind]
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "scenario.toml").write_text('model = { name = "logistic" }\nrounds = 1\n')
    for name in ("rounds.jsonl", "environment.json", "summary.json", "clients.json", "ledger.db", "model.safetensors"):
        (run / name).write_bytes(data)
    (run / "checkpoint" / "00000001.safetensors").write_bytes(data)
    assert RunDirectory(run).load_checkpoint() is None
    for command in (["report"], ["compare"], ["export", "--to", "csv"], ["resume", "--quiet"], ["plan", "--ledger"]):
        words = [*command, str(run / "ledger.db")] if command[0] == "plan" else [command[0], str(run), *command[1:]]
        refused(lambda words=words: app(words, standalone_mode=False))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch", "npy"])
def test_no_message_runs_a_pickle(tmp_path, kind):
    mark = tmp_path / "mark"
    array = Array("float32", (3,), "numpy.ndarray", payloads(mark)[kind])
    job = pack_job(TrainJob(1, "", "", np.arange(2), np.zeros(3, np.float32), 0.1), 7)
    job.content.array_records["arrays"]["params"] = array
    refused(lambda: unpack_job(job))
    for kind in ("job", "sum", "rows", "evaluation"):  # the others hold no arrays
        make, read = KINDS[kind]
        message = make()
        for record in message.content.array_records.values():
            for name in list(record):
                record[name] = array
                refused(lambda read=read, message=message: read(message))
    model = KINDS["evaluation"][0]()
    model.content.array_records["arrays"]["params"] = array
    refused(lambda: unpack_evaluation(model))
    assert not mark.exists()


def refused(call: Callable[[], object]) -> None:
    """What holds a pickle is refused as what it is: neither read nor met with another error."""
    try:
        call()
    except (FedsimError, MalformedMessage):
        return
    pytest.fail("it was read")
