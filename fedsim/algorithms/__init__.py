"""Federated algorithms: the table of what ``[algorithm] name`` may be."""

from __future__ import annotations

from fedsim.algorithms.apfl import Apfl
from fedsim.algorithms.base import Algorithm, Given, LocalTraining, ServerOptimizer
from fedsim.algorithms.ditto import Ditto
from fedsim.algorithms.fedavg import FedAvg
from fedsim.algorithms.fedbn import FedBN
from fedsim.algorithms.feddyn import FedDyn
from fedsim.algorithms.fednova import FedNova
from fedsim.algorithms.fedper import FedPer
from fedsim.algorithms.fedprox import FedProx
from fedsim.algorithms.fedsgd import FedSgd
from fedsim.algorithms.finetune import FineTune
from fedsim.algorithms.local import Local
from fedsim.algorithms.mimelite import MimeLite
from fedsim.algorithms.problem import LocalProblem
from fedsim.algorithms.qfedavg import QFedAvg
from fedsim.algorithms.scaffold import Scaffold

ALGORITHMS: dict[str, type[Algorithm]] = {
    "fedavg": FedAvg,  # McMahan et al. 2017, arXiv 1602.05629
    "fedsgd": FedSgd,  # McMahan et al. 2017, arXiv 1602.05629
    "fedprox": FedProx,  # Li et al. 2020, arXiv 1812.06127
    "scaffold": Scaffold,  # Karimireddy et al. 2020, arXiv 1910.06378
    "feddyn": FedDyn,  # Acar et al. 2021, arXiv 2111.04263
    "fednova": FedNova,  # Wang et al. 2020, arXiv 2007.07481
    "mimelite": MimeLite,  # Karimireddy et al. 2021, arXiv 2008.03606
    "qfedavg": QFedAvg,  # Li et al. 2020, arXiv 1905.10497
    "ditto": Ditto,  # Li et al. 2021, arXiv 2012.04221
    "fedper": FedPer,  # Arivazhagan et al. 2019, arXiv 1912.00818
    "fedbn": FedBN,  # Li et al. 2021, arXiv 2102.07623
    "apfl": Apfl,  # Deng et al. 2020, arXiv 2003.13461
    "finetune": FineTune,  # Yu et al. 2020, arXiv 2002.04758
    "local": Local,  # the baseline: no federation
}

__all__ = ["ALGORITHMS", "Algorithm", "FedAvg", "FedProx", "Given", "LocalProblem", "LocalTraining", "ServerOptimizer"]
