"""Data sources: the table of what ``[data] source`` may name."""

from __future__ import annotations

from fedsim.data.dataset import Dataset, DataSource, Examples
from fedsim.data.digits import Digits
from fedsim.data.idx import Mnist

SOURCES = {
    "digits": Digits,  # Alpaydin and Kaynak 1998, UCI; ships with scikit-learn
    "mnist": Mnist,  # LeCun et al. 1998
}

__all__ = ["SOURCES", "DataSource", "Dataset", "Digits", "Examples", "Mnist"]
