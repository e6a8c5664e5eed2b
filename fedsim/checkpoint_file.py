"""A checkpoint's file: tensors and how far the run was, with a checksum over both."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedsim.errors import FedsimError

OTHER_VERSION = "{file} was written by another version of fedsim ({why}): resume with that version, or run again."


class Torn(Exception):
    """A checkpoint that is not as it was written."""


def pack_checkpoint(tensors: dict[str, Tensor], progress: str, run: str) -> bytes:
    """The bytes of a checkpoint of a run."""
    tensors = to_cpu(tensors)
    data: bytes = save(tensors, {"progress": progress, "run": run, "checksum": _checksum(tensors, progress)})
    return data


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A checkpoint's tensors, and what is said about them; raises ``Torn`` or ``FedsimError``."""
    try:
        with safe_open(file, "pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise Torn from error
    except OSError as error:
        raise FedsimError(f"{file} cannot be read: {error.strerror or error}.") from error
    if missing := {"progress", "run", "checksum"} - set(about):
        raise FedsimError(OTHER_VERSION.format(file=file, why=f"it lacks {', '.join(sorted(missing))}"))
    if _checksum(tensors, about["progress"]) != about["checksum"]:
        raise Torn
    return tensors, about


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    """Of all that a checkpoint holds: a page that never reached the disk leaves no trace in a file's length."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors as files hold them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
