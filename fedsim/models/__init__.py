"""Models: the table of what ``[model] name`` may be, and how one is built."""

from __future__ import annotations

from fedsim.models.autoencoder import Autoencoder
from fedsim.models.build import ModelSettings, Signature, build_model
from fedsim.models.cnn import Cnn
from fedsim.models.custom import Custom
from fedsim.models.linear import Linear
from fedsim.models.logistic import Logistic
from fedsim.models.lstm import Lstm
from fedsim.models.mlp import Mlp
from fedsim.models.options import Lora, ModelOptions
from fedsim.models.resnet import ResNet
from fedsim.models.transformer import Transformer

MODELS = {
    "logistic": Logistic,  # Cox 1958
    "linear": Linear,  # Legendre 1805
    "mlp": Mlp,  # Rumelhart et al. 1986
    "cnn": Cnn,  # LeCun et al. 1998
    "autoencoder": Autoencoder,  # Hinton and Salakhutdinov 2006; Zeiler et al. 2010 (deconvolution)
    "resnet": ResNet,  # He et al. 2016, arXiv 1512.03385
    "lstm": Lstm,  # Hochreiter and Schmidhuber 1997
    "transformer": Transformer,  # Vaswani et al. 2017, arXiv 1706.03762
}

__all__ = [
    "MODELS",
    "Autoencoder",
    "Cnn",
    "Custom",
    "Lora",
    "Mlp",
    "ModelOptions",
    "ModelSettings",
    "Signature",
    "build_model",
]
