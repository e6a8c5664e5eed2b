"""A model of your own, by import path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from fedsim.errors import BadInput
from fedsim.imports import load_object
from fedsim.models.build import Signature
from fedsim.models.options import ModelOptions
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Custom(ModelOptions):
    """``name = "package.module:Class"``; the class is called with ``settings`` and must return an ``nn.Module``."""

    name: Annotated[str, Field(pattern=":")]
    settings: dict[str, Any] = field(default_factory=dict)

    def build(self, signature: Signature) -> nn.Module:
        """The user's module; raises ``BadInput`` if it cannot be imported or built."""
        make = load_object("model.name", self.name)
        try:
            module = make(**self.settings)
        except Exception as error:
            raise BadInput(f'model.name = "{self.name}" could not be built: {error}.') from error
        if not isinstance(module, nn.Module):
            raise BadInput(f'model.name = "{self.name}" returned a {type(module).__name__}, not a torch.nn.Module.')
        return module
