"""The sections of a scenario by their dotted paths, as its dataclasses have them."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any

from fedsim.scenario import Scenario
from fedsim.settings import CUSTOM

# What a section is: its dataclass, or the key that picks one and the dataclasses by name.
Section = type | tuple[str, dict[str, Any]]


def section_at(path: str) -> Section | None:
    """The section at ``path``, such as ``privacy.client``; None where there is none or it is a single value."""
    found: Section | None = Scenario
    for step in path.split("."):
        if not isinstance(found, type) or step not in {field.name for field in dataclasses.fields(found)}:
            return None
        found = _section(typing.get_type_hints(found, include_extras=True)[step])
    return found


def _section(kind: Any) -> Section | None:
    """What a field's type describes, an optional one as if it were there."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = [_section(each) for each in typing.get_args(kind)]
        return next((each for each in kinds if each is not None), None)
    if typing.get_origin(kind) is Annotated:
        return _choice(kind)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _choice(kind: Any) -> Section | None:
    """The key and the entries of a choice, which carries them in its discriminator and its members' tags."""
    union, *about = typing.get_args(kind)
    context = getattr(about[0], "custom_error_context", None)
    if context is None:
        return None
    tagged = {typing.get_args(each)[1].tag: typing.get_args(each)[0] for each in typing.get_args(union)}
    return context["key"], {name: entry for name, entry in tagged.items() if name != CUSTOM}
