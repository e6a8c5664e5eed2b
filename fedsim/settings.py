"""How a section of the scenario file becomes a frozen dataclass: strict keys, and choices from a table by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union

from pydantic import ConfigDict, Discriminator, Field, Tag

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

CUSTOM = "package.module:name"


def section(cls: type[T]) -> type[T]:
    """Class decorator: a dataclass that refuses keys it does not have when it is read from a scenario file."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return cls


class _Pick(Discriminator):
    """Hashable in spite of its context, so that a choice may be optional."""

    __hash__ = object.__hash__


def choice(key: str, table: Mapping[str, type], custom: type | None = None) -> Any:
    """The type "one of the table's entries, picked by ``key``"; with ``custom``, an import path too."""
    entries = dict(table) | ({CUSTOM: custom} if custom else {})

    def tag(value: Any) -> str | None:
        name = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        if isinstance(name, str) and name not in table and ":" in name and custom:
            return CUSTOM
        return name if isinstance(name, str) else None

    members = tuple(Annotated[entry, Tag(name)] for name, entry in entries.items())
    pick = _Pick(
        tag,
        custom_error_type="choice",
        custom_error_message="must be one of {names}",
        custom_error_context={"key": key, "names": ", ".join(entries)},
    )
    return Annotated[Union[members], pick]  # noqa: UP007 (built from a table)
