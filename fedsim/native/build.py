"""Compiles the native trainer for this machine at first use, and keeps it in the cache folder."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from fedsim.extras import install
from fedsim.privacy.cache import cache_folder

SOURCES = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".cpp", ".h"))
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")
SECONDS = 300


class NoNative(Exception):
    """There is no native library on this machine; the message says why."""


@cache
def library() -> ctypes.CDLL:
    """The compiled library; raises ``NoNative``."""
    compiler = find_compiler()
    file = _folder() / f"native-{_digest(compiler)}.so"
    if file.exists():
        with contextlib.suppress(OSError):  # a damaged file is made again
            return ctypes.CDLL(str(file))
    _compile(compiler, file)
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise NoNative(f"the compiled library cannot be loaded ({error})") from error


def find_compiler() -> list[str]:
    """The command of a C++ compiler: ``$CXX``, the system's, or the one of the package ziglang; raises ``NoNative``."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        found = shutil.which(name)
        if found:
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    raise NoNative(f"there is no C++ compiler; {install('native')} brings one")


def _folder() -> Path:
    """The user's cache folder; where nothing is to be kept, one that only this process uses."""
    folder = cache_folder()
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="fedsim-native-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoNative(f"the cache folder {folder} cannot be made ({error.strerror})") from error
    return folder


def _digest(compiler: list[str]) -> str:
    """Of everything that the result depends on: sources, flags, compiler, and the processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=60, check=False).stdout
    text = hashlib.sha256(repr((compiler, FLAGS)).encode() + version + _processor())
    for source in SOURCES:
        text.update(source.read_bytes())
    return text.hexdigest()[:16]


def _processor() -> bytes:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_bytes().splitlines() if cpuinfo.exists() else []
    return b"".join(sorted({line for line in lines if line.startswith((b"flags", b"model name", b"Features"))}))


def _compile(compiler: list[str], file: Path) -> None:
    main = next(str(source) for source in SOURCES if source.suffix == ".cpp")
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        try:
            done = subprocess.run(
                [*compiler, *FLAGS, main, "-o", str(made)], capture_output=True, timeout=SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoNative(f"{' '.join(compiler)} failed: {error}") from error
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise NoNative(f"{' '.join(compiler)} failed: {' '.join(last)}")
        os.replace(made, file)
