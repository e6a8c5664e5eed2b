"""Models: the table of what ``[model] name`` may be, and how one is built."""

from __future__ import annotations

from fedsim.models.autoencoder import Autoencoder
from fedsim.models.build import ModelSettings, Signature, build_model
from fedsim.models.cnn import Cnn
from fedsim.models.custom import Custom
from fedsim.models.mlp import Mlp

MODELS = {
    "mlp": Mlp,  # Rumelhart et al. 1986
    "cnn": Cnn,  # LeCun et al. 1998
    "autoencoder": Autoencoder,  # Hinton and Salakhutdinov 2006; Zeiler et al. 2010 (deconvolution)
}

__all__ = ["MODELS", "Autoencoder", "Cnn", "Custom", "Mlp", "ModelSettings", "Signature", "build_model"]
