"""Populations: clients as index arrays over one data set, and the table of partitions."""

from __future__ import annotations

from fedsim.population.dirichlet import Dirichlet
from fedsim.population.feature_skew import FeatureSkew
from fedsim.population.iid import Iid
from fedsim.population.natural import Natural
from fedsim.population.pathological import Pathological
from fedsim.population.population import Partition, Population
from fedsim.population.quantity_skew import QuantitySkew
from fedsim.population.shards import Shards

PARTITIONS = {
    "iid": Iid,
    "dirichlet": Dirichlet,  # Hsu et al. 2019, arXiv 1909.06335
    "shards": Shards,  # McMahan et al. 2017, arXiv 1602.05629
    "pathological": Pathological,  # Li et al. 2022, arXiv 2102.02079
    "quantity_skew": QuantitySkew,
    "feature_skew": FeatureSkew,  # Li et al. 2022, arXiv 2102.02079
    "natural": Natural,  # Caldas et al. 2018, arXiv 1812.01097
}

__all__ = [
    "PARTITIONS",
    "Dirichlet",
    "FeatureSkew",
    "Iid",
    "Natural",
    "Partition",
    "Pathological",
    "Population",
    "QuantitySkew",
    "Shards",
]
