"""What is fuzzed: seeds, how they are damaged, and what reads them."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fedsim.errors import BadInput, FedsimError
from tests.fuzzing.mutation import mutate_bytes, mutate_tree

Mutate = Callable[[Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]


@dataclass(frozen=True)
class Target:
    """``run(data, folder)`` reads ``data`` as a user's file would be read; ``folder`` is empty and its own.

    ``batch`` inputs are run in one child process, fewer where each takes long.
    """

    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]
    mutate: Mutate = mutate_bytes
    words: tuple[bytes, ...] = ()
    batch: int = 64

    def damaged(self, random: Random, corpus: Sequence[bytes]) -> bytes:
        """An input made of one in the corpus."""
        return self.mutate(random, random.choice(corpus), self.words, corpus)


def json_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A JSON document with other values, or with other bytes."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        tree = None
    if tree is None or random.random() < 0.3:
        return mutate_bytes(random, data, words, others)
    trees = [json.loads(other) for other in others[:8] if other[:1] == b"{" and _is_json(other)]
    return json.dumps(mutate_tree(random, tree, trees)).encode("utf-8", "surrogatepass")


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def packed(data: bytes, how: int) -> tuple[bytes, str]:
    """The bytes as they are, gzipped or xz-compressed, and the suffix."""
    return [(data, ""), (gzip.compress(data, 1, mtime=0), ".gz"), (lzma.compress(data, preset=0), ".xz")][how]


def unzipped(data: bytes) -> dict[str, bytes] | None:
    """The members of a zip file, or None where it is none (any more)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > 2**24:
                return None
            return {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # whatever damaged bytes lead the reader to
        return None


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


@contextmanager
def tolerated() -> Iterator[None]:
    """Lets input be refused, to read it in yet another way; but not because memory ran out."""
    try:
        yield
    except FedsimError as error:
        if out_of_memory(error) is not None:
            raise


def refusal(call: Callable[[], object], kind: type[Exception] = BadInput) -> str | None:
    """Why a call was refused by this kind of exception, or None; any other passes."""
    try:
        call()
    except kind as error:
        return str(error)
    return None


def out_of_memory(error: BaseException) -> MemoryError | None:
    """The exhaustion of memory that an exception came from, if it did."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, MemoryError):
        seen = seen.__cause__ or seen.__context__
    return seen
