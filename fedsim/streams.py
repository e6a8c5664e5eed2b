"""Standard output and standard error, whatever they are connected to."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def written_out() -> Iterator[None]:
    """See that what the block prints is written, or end with exit code 1.

    What a terminal has no character for is escaped. Where whoever reads has stopped (``| head``) it ends without a
    word, as there is nobody to tell; another trouble, such as a full disk, is one line on standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="fedsim.shown")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_the_rest()
        sys.exit(1)
    except OSError as error:
        _drop_the_rest()
        print(f"Standard output cannot be written: {error.strerror}.", file=sys.stderr)
        sys.exit(1)


def reader_stopped() -> bool:
    """Whether whoever read standard output does so no more."""
    if sys.stdout is None or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _as_bytes_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """How a character is written that the encoding lacks: bytes of a file's name as they were, others as an escape."""
    assert isinstance(error, UnicodeEncodeError)
    one = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    byte = "\udc80" <= error.object[error.start] <= "\udcff"
    return codecs.lookup_error("surrogateescape" if byte else "backslashreplace")(one)


codecs.register_error("fedsim.shown", _as_bytes_or_escaped)


def _drop_the_rest() -> None:
    """Send to nowhere what is still to be written, or Python would complain of it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
