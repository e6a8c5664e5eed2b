"""Files of data and models: every format that fedsim reads."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from fedsim.data import Mnist
from fedsim.data.adult import Adult
from fedsim.data.cifar10 import BATCHES, Cifar10
from fedsim.data.columns import Categorical, Numeric
from fedsim.data.csv_table import Csv
from fedsim.data.idx import read_idx
from fedsim.data.mnist import FILES, WRITERS
from fedsim.data.npz import Npz
from fedsim.data.parquet import Parquet
from fedsim.data.scaling import PerClient
from fedsim.data.shakespeare import Shakespeare
from fedsim.data.text import Text
from fedsim.data.unpickling import read_pickle
from fedsim.devices.presence_trace import PresenceTrace
from fedsim.devices.rate_trace import RateTrace
from fedsim.devices.rates import Trait, Traits
from fedsim.models import Mlp
from fedsim.models.initial import load_initial
from tests.fuzzing.mutation import NUMBERS, mutate_bytes
from tests.fuzzing.target import Target, json_mutate, packed, tolerated, unzipped, zipped

# IDX, also in a packed file


def idx(values: np.ndarray) -> bytes:
    """An array as an IDX file."""
    code = {"uint8": 8, "int32": 12}[values.dtype.name]
    return bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


IMAGES, LABELS = idx(np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)), idx(np.arange(3, dtype=np.uint8))
OWNERS = idx(np.stack([np.arange(3)] * 8, 1).astype(">i4").view("i4"))


def _idx_seeds() -> list[bytes]:
    """The first byte says which of MNIST's files it is, and how it is packed."""
    contents = [IMAGES, LABELS, OWNERS]
    return [bytes([3 * which + how]) + packed(contents[which], how)[0] for which in range(3) for how in range(3)]


def _run_idx(data: bytes, folder: Path) -> None:
    which, how = divmod(data[0] % 9 if data else 0, 3)
    (folder / "damaged").with_suffix(("", ".gz", ".xz")[how]).write_bytes(data[1:])
    for dtype in ("u1", ">i4"):
        with tolerated():
            read_idx((folder / "damaged").with_suffix(("", ".gz", ".xz")[how]), dtype)
    for number, name in enumerate([*FILES, *WRITERS]):
        (folder / name).write_bytes(OWNERS if number > 3 else (IMAGES, LABELS)[number % 2])
    name = (FILES[0], FILES[1], WRITERS[0])[which]
    (folder / name).unlink()
    (folder / (name + ("", ".gz", ".xz")[how])).write_bytes(data[1:])
    Mnist(path=str(folder)).load(0)


def _packed_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """Damage inside the packing, or of the packing; now and then a packing of very much of nothing."""
    head, body = data[:1], data[1:]
    how = head[0] % 3 if head else 0
    if how == 1 and random.random() < 0.6:
        with contextlib.suppress(Exception):
            body = gzip.decompress(body)[: 2**20]
            body = mutate_bytes(random, body, words)
            bomb = b"\0" * 2**22 if random.random() < 0.02 else b""
            return head + gzip.compress(body + bomb, 1, mtime=0) * random.choice([1, 1, 1, 300 if bomb else 2])
    if random.random() < 0.1:
        head = bytes([random.randrange(9)])
    return head + mutate_bytes(random, body, words, [other[1:] for other in others])


# npy and npz


def npy(values: np.ndarray) -> bytes:
    """An array as an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.random((8, 3)).astype(np.float32)
    return {"x_train": features, "y_train": np.arange(8) % 2, "owners": np.array(list("aabbccdd"))}


def _npz_seeds() -> list[bytes]:
    members = {f"{name}.npy": npy(values) for name, values in _arrays().items()}
    fortran = members | {"x_train.npy": npy(np.asfortranarray(_arrays()["x_train"]))}
    whole = members | {"x_train.npy": npy(np.arange(24).reshape(8, 3))}
    return [
        zipped(each, how) for each in (members, fortran, whole) for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]


def _run_npz(data: bytes, folder: Path) -> None:
    (folder / "a.npz").write_bytes(data)
    _both(folder / "a.npz")
    members = unzipped(data)
    if members is not None:  # the same arrays as a folder of npy files
        (folder / "b").mkdir()
        for name, content in members.items():
            with contextlib.suppress(OSError, ValueError):  # a name that is no name of a file
                (folder / "b" / Path(name).name).write_bytes(content)
        _both(folder / "b")


def _both(path: Path) -> None:
    """As numbers and as tokens."""
    for options in ({"train_owners": "owners"}, {"vocabulary": 30}):
        with tolerated():
            data = Npz(str(path), **options).load(0)
            assert np.isfinite(data.train.features).all()


def npy_header(random: Random) -> bytes:
    """The start of an npy file that says anything."""
    sizes = [*NUMBERS, 10**12, 8, 3, 2.0, True, None, "8"]
    shape = tuple(random.choice(sizes) for _ in range(random.randint(0, 4)))
    types = ["<f4", "<f8", "|O", "<i8", "|V0", "|V8", "<U0", "<U3", "|S0", "<M8[ns]", "<f2", "<c16", [("a", "|O")], "?"]
    header: dict[str, Any] = {"descr": random.choice(types), "fortran_order": random.choice([True, False, 1, "x"])}
    header["shape"] = shape
    text = repr(header) if random.random() < 0.9 else random.choice(["(" * 5000, "-" * 5000, "[" * 900, "{}", "1"])
    raw = text.encode() + b"\n"
    version = random.choice([1, 1, 1, 2, 3, 9])
    length = struct.pack(
        "<H" if version == 1 else "<I", len(raw) if random.random() < 0.9 else random.choice([0, 65535])
    )
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw


def npy_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """An npy file with another header, or other bytes."""
    if random.random() < 0.5:
        return npy_header(random) + data[128:] * random.choice([1, 1, 1, 0, 30])
    return mutate_bytes(random, data, words, others)


def npz_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """Damage inside a member, of the members, or of the zip file itself."""
    members = unzipped(data)
    if not members or random.random() < 0.3:
        return mutate_bytes(random, data, words, others)
    name = random.choice(list(members))
    action = random.random()
    if action < 0.7:
        members[name] = npy_mutate(random, members[name], words, list(members.values()))
    elif action < 0.8:
        members[name] = pickle.dumps(members[name])
    elif action < 0.85:
        members[name] = _nothing(random)
    elif action < 0.92:
        del members[name]
    else:
        members[random.choice(["../x.npy", "/x.npy", "x_train", "\0.npy", "y_train.npy"])] = members.pop(name)
    return zipped(
        members, random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    )


def _nothing(random: Random) -> bytes:
    """16 MiB of zeros, announced as they are: packed they are a thousand times smaller."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (8, 2097152), }"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 2**24


# Tables

FEATURES = (Numeric(name="age", mean=50, std=10, fill=0.0), Categorical(name="sex", values=("f", "m"), other=True))
CSV = b"who,age,sex,ill\n" + b"".join(b"p%d,%d,%s,%d\n" % (n % 3, 30 + n, b"fm"[n % 2 :][:1], n % 2) for n in range(12))
CSV_WORDS = (b",", b'"', b"\r", b"\r\n", b"1e999", b"nan", b"?", b"\0", b"9" * 400, b"\xef\xbb\xbf", b"," * 500)


def _run_csv(data: bytes, folder: Path) -> None:
    how = data[0] % 2 if data else 0
    file = folder / ("t.csv", "t.csv.gz")[how]
    file.write_bytes(data[1:])
    declared: dict[str, Any] = {"path": str(file), "label": "ill", "features": FEATURES, "classes": ("0", "1")}
    for options in ({}, {"client": "who", "scaling": PerClient(), "bad_rows": "drop"}):
        with tolerated():
            assert np.isfinite(Csv(**declared, **options, missing=("?",)).load(0).train.features).all()
    traits = Traits(0, 3, "devices.compute", Trait.COMPUTE)
    for trace in (RateTrace(path=str(file), column="age"), PresenceTrace(path=str(file))):
        with tolerated():
            trace.of_clients(traits) if isinstance(trace, RateTrace) else trace.presence(traits)


TRACE = b"device,start,end,age\na,0,10,3\na,20,30,3\nb,5,25,1e3\n"


def _parquet_seeds() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet

    columns = dict(
        zip(
            *[["who", "age", "sex", "ill"], zip(*[line.split(b",") for line in CSV.split()[1:]], strict=True)],
            strict=True,
        )
    )
    texts = {name: [text.decode() for text in column] for name, column in columns.items()}
    tables = [pyarrow.table(texts), pyarrow.table(texts | {"age": [float(age) for age in texts["age"]]})]
    found = []
    for table in tables:
        for compression in ("none", "snappy", "gzip"):
            buffer = io.BytesIO()
            pyarrow.parquet.write_table(table, buffer, compression=compression)
            found.append(buffer.getvalue())
    return found


def _run_parquet(data: bytes, folder: Path) -> None:
    (folder / "t.parquet").write_bytes(data)
    Parquet(path=str(folder / "t.parquet"), label="ill", features=FEATURES, classes=("0", "1"), client="who").load(0)


def _run_adult(data: bytes, folder: Path) -> None:
    for name in ("adult.data", "adult.test"):
        (folder / name).write_bytes(data)
    Adult(path=str(folder), client="sex", unknown="drop").load(0)


ADULT = b"39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, "
ADULT += b"2174, 0, 40, Cuba, <=50K\n"

# Pickles of CIFAR-10, and texts


def _batch() -> bytes:
    rows = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072)
    return pickle.dumps({"data": rows, "labels": [3, 9]}, 2)


def _pickle_seeds() -> list[bytes]:
    small = {"a": np.arange(6.0).reshape(2, 3), "b": [1, "x", None, 2.5], "c": np.zeros((2, 2), ">i4", order="F")}
    return [_batch(), *(pickle.dumps(small, protocol) for protocol in (0, 1, 2, 4))]


PICKLE_WORDS = (
    b"cos\nsystem\n",
    b"c__builtin__\neval\n",
    b"\x93",
    b"R",
    b"b",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"r\xff\xff\xff\x7f",
    b"(" * 2000,
    b"]" * 2000,
    b"\x85" * 3000,
    b"0",
    b"2",
    b"h\x00",
)


def _run_pickle(data: bytes, folder: Path) -> None:
    (folder / "x").write_bytes(data)
    with tolerated():
        table = read_pickle(folder / "x")
        assert all(isinstance(name, str) for name in table)
    for name in BATCHES[:-1]:
        (folder / name).write_bytes(data)
    (folder / BATCHES[-1]).write_bytes(_batch())
    Cifar10(path=str(folder)).load(0)


TEXT = ("ROMEO:\nBut soft, what light through yonder window breaks?\n\n" * 4).encode()
SPEECH = b'{"play": "Hamlet", "role": "HAMLET", "lines": ["To be, or not to be", "that is the question"]}\n' * 4


def _run_text(data: bytes, folder: Path) -> None:
    how = data[0] % 9 if data else 0
    suffix, body = ("", ".gz", ".xz")[how % 3], data[1:]
    (folder / "texts").mkdir()
    (folder / "texts" / f"one.txt{suffix}").write_bytes(body)
    with tolerated():
        Text(str(folder / "texts"), length=7).load(0)
    for name in ("plays_by_role.jsonl", "tinyshakespeare.txt"):
        (folder / (name + suffix)).write_bytes(body)
    with tolerated():
        Shakespeare(path=str(folder), length=7).load(0)
    Shakespeare(path=str(folder), edition="tinyshakespeare", length=7).load(0)


# Models


def _model() -> torch.nn.Module:
    module = torch.nn.Sequential(*(torch.nn.utils.skip_init(torch.nn.Linear, *size) for size in ((3, 4), (4, 2))))
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    return module


def tensors_seeds() -> list[bytes]:
    """Models as safetensors files."""
    own = {name: value.detach().clone() for name, value in _model().state_dict().items()}
    odd = {"a": torch.zeros(2, dtype=torch.float16), "b": torch.ones(1, 1, dtype=torch.int64), "0.bias": torch.zeros(4)}
    return [save(own), save(own | odd, {"progress": "{}"}), save(odd)]


def tensors_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A safetensors file with another header, with a length that lies, or with other bytes."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) or random.random() < 0.3:
        return mutate_bytes(random, data, words, others)
    header = json_mutate(random, data[8 : 8 + length].rstrip(b" "), words, ())
    announced = len(header) if random.random() < 0.9 else random.choice([0, 2**40, 2**63, len(header) + 1])
    return announced.to_bytes(8, "little") + header + data[8 + length :]


def _run_tensors(data: bytes, folder: Path) -> None:
    (folder / "m.safetensors").write_bytes(data)
    for skip in (None, ("0.*",)):
        with tolerated():
            load_initial(_model(), Mlp(initial=str(folder / "m.safetensors"), initial_skip=skip))


def _each(*contents: bytes) -> list[bytes]:
    """Contents, each packed in each way; the first byte says which."""
    return [bytes([how]) + packed(content, how)[0] for content in contents for how in range(3)]


FILES_TARGETS = {
    "idx": Target(
        _idx_seeds, _run_idx, _packed_mutate, (b"\0\0\x08\x03", b"\0\0\x0c\x02", b"\xff" * 4, b"\x1f\x8b\x08")
    ),
    "npz": Target(
        _npz_seeds, _run_npz, npz_mutate, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY\x01\0", b"|O")
    ),
    "csv": Target(
        lambda: [b"\0" + CSV, b"\1" + gzip.compress(CSV), b"\0" + TRACE], _run_csv, _packed_mutate, CSV_WORDS
    ),
    "parquet": Target(_parquet_seeds, _run_parquet, words=(b"PAR1", b"\x15\x04", b"\x19\x1c")),
    "adult": Target(lambda: [ADULT * 6], _run_adult, words=(b", ", b"?", b"|", b">50K.", *CSV_WORDS)),
    "pickle": Target(_pickle_seeds, _run_pickle, words=PICKLE_WORDS),
    "text": Target(
        lambda: _each(TEXT, SPEECH), _run_text, _packed_mutate, (b"\n\n", b":\n", b"{", b"[" * 3000, b"\xff")
    ),
    "safetensors": Target(
        tensors_seeds, _run_tensors, tensors_mutate, (b'"F32"', b'"data_offsets"', b"[0,99999999999]")
    ),
}
