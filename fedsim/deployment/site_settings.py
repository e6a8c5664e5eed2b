"""``site.toml``: where a site's server is, how it splits its data, and what it allows: its policy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedsim.documents import parse_toml
from fedsim.errors import BadInput
from fedsim.settings import NonNegative, Positive, section

LONGEST_NAME = 200  # characters that are said of a key
Share = Annotated[float, Field(gt=0, lt=1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{12}$")]


@section
@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a site takes part in, whatever the server asks; all of it is checked at the site.

    ``scenarios`` and ``models`` are lists, or any scenario and all built-in models. ``max_epsilon_example`` and
    ``max_epsilon_client`` bound what all runs together may ever spend, at ``delta``. ``trust_server`` allows noise for
    whole clients that the server adds, ``without_privacy`` runs that protect nothing, ``send_metrics`` metrics of the
    records that the site holds back, which no guarantee covers.
    """

    scenarios: Literal["any"] | tuple[Digest, ...] = "any"
    models: Literal["built-in"] | tuple[str, ...] = "built-in"
    max_epsilon_example: Positive = 8.0
    max_epsilon_client: Positive = 8.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    min_noise_multiplier: NonNegative = 0.5
    trust_server: bool = False
    without_privacy: bool = False
    send_metrics: bool = False


@section
@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """A site: its ``name``, its ``server`` (host:port), the share of its records that it holds back, and its policy.

    ``split_seed`` draws which records are held back, and must not be known to others if that is to stay with the site.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
    server: Annotated[str, Field(pattern=r"^.+:[0-9]+$")]
    held_back: Share = 0.2
    split_seed: Annotated[int, Field(ge=0)] = 0
    policy: Policy = field(default_factory=Policy)


def load_site(folder: Path) -> SiteSettings:
    """The settings in a site's folder; raises ``BadInput`` that names every key that is wrong."""
    file = folder / "site.toml"
    try:
        raw = parse_toml(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{folder} is not a site's folder: it has no site.toml.") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read: {error}.") from error
    try:
        return TypeAdapter(SiteSettings).validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))[:LONGEST_NAME]}: {item['msg']}" for item in error.errors()]
        raise BadInput("\n".join([f"{file}: {len(lines)} problem(s)", *(f"  {line}" for line in lines)])) from error
