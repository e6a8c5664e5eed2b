"""Populations: clients as index arrays over one data set, and the table of partitions."""

from __future__ import annotations

from fedsim.population.dirichlet import Dirichlet
from fedsim.population.iid import Iid
from fedsim.population.population import Partition, Population

PARTITIONS = {
    "iid": Iid,
    "dirichlet": Dirichlet,  # Hsu et al. 2019, arXiv 1909.06335
}

__all__ = ["PARTITIONS", "Dirichlet", "Iid", "Partition", "Population"]
