"""Federated algorithms: the table of what ``[algorithm] name`` may be."""

from __future__ import annotations

from fedsim.algorithms.base import Algorithm, Given, LocalTraining, ServerOptimizer
from fedsim.algorithms.fedavg import FedAvg
from fedsim.algorithms.fedprox import FedProx
from fedsim.algorithms.problem import LocalProblem

ALGORITHMS = {
    "fedavg": FedAvg,  # McMahan et al. 2017, arXiv 1602.05629
    "fedprox": FedProx,  # Li et al. 2020, arXiv 1812.06127
}

__all__ = ["ALGORITHMS", "Algorithm", "FedAvg", "FedProx", "Given", "LocalProblem", "LocalTraining", "ServerOptimizer"]
