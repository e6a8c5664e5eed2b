"""Models: the table of what ``[model] name`` may be, and how one is built."""

from __future__ import annotations

from fedsim.models.build import ModelSettings, Signature, build_model
from fedsim.models.cnn import Cnn
from fedsim.models.custom import Custom
from fedsim.models.mlp import Mlp
from fedsim.models.options import Lora, ModelOptions

MODELS = {
    "mlp": Mlp,  # Rumelhart et al. 1986
    "cnn": Cnn,  # LeCun et al. 1998
}

__all__ = [
    "MODELS",
    "Cnn",
    "Custom",
    "Lora",
    "Mlp",
    "ModelOptions",
    "ModelSettings",
    "Signature",
    "build_model",
]
