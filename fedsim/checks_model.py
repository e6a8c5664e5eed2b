"""Options of models that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.models import ModelOptions


def initial_problems(model: object) -> Iterator[str]:
    """Options of the file to start from, without a file, one line each."""
    if not isinstance(model, ModelOptions) or model.initial is not None:
        return
    for key in ("initial_skip", "initial_sha256"):
        if getattr(model, key):
            yield f"model.{key}: only used with model.initial, the file to start from"
