"""Attacks: the table of what ``[attack] kind`` may be. They are for simulation, to study what survives them."""

from __future__ import annotations

from fedsim.attacks.alie import Alie
from fedsim.attacks.backdoor import Backdoor
from fedsim.attacks.base import Attack, Attackers
from fedsim.attacks.free_rider import FreeRider
from fedsim.attacks.gaussian import Gaussian
from fedsim.attacks.inner_product import InnerProduct
from fedsim.attacks.label_flip import LabelFlip
from fedsim.attacks.model_replacement import ModelReplacement
from fedsim.attacks.nan import Nan
from fedsim.attacks.sign_flip import SignFlip

ATTACKS: dict[str, type[Attack]] = {
    "label_flip": LabelFlip,  # Tolpegin et al. 2020, arXiv 2007.08432
    "gaussian": Gaussian,  # Blanchard et al. 2017, arXiv 1703.02757
    "sign_flip": SignFlip,
    "alie": Alie,  # Baruch et al. 2019, arXiv 1902.06156
    "inner_product": InnerProduct,  # Xie et al. 2019, arXiv 1903.03936
    "backdoor": Backdoor,  # Gu et al. 2017, arXiv 1708.06733
    "model_replacement": ModelReplacement,  # Bagdasaryan et al. 2020, arXiv 1807.00459
    "free_rider": FreeRider,  # Lin et al. 2019, arXiv 1911.12560
    "nan": Nan,
}

__all__ = ["ATTACKS", "Attack", "Attackers"]
