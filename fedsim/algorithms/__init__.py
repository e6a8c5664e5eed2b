"""Federated algorithms: the table of what ``[algorithm] name`` may be."""

from __future__ import annotations

from fedsim.algorithms.base import Algorithm, Given, LocalTraining, ServerOptimizer
from fedsim.algorithms.fedavg import FedAvg
from fedsim.algorithms.feddyn import FedDyn
from fedsim.algorithms.fednova import FedNova
from fedsim.algorithms.fedprox import FedProx
from fedsim.algorithms.fedsgd import FedSgd
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
}

__all__ = ["ALGORITHMS", "Algorithm", "FedAvg", "FedProx", "Given", "LocalProblem", "LocalTraining", "ServerOptimizer"]
