"""Data sources: the table of what ``[data] source`` may name."""

from __future__ import annotations

from fedsim.data.adult import Adult
from fedsim.data.csv_table import Csv
from fedsim.data.dataset import Dataset, DataSource, Examples
from fedsim.data.digits import Digits
from fedsim.data.heart_disease import HeartDisease
from fedsim.data.idx import Mnist
from fedsim.data.parkinsons import Parkinsons
from fedsim.data.parquet import Parquet
from fedsim.data.synthetic import Synthetic

SOURCES = {
    "digits": Digits,  # Alpaydin and Kaynak 1998, UCI; ships with scikit-learn
    "mnist": Mnist,  # LeCun et al. 1998
    "heart_disease": HeartDisease,  # Janosi et al. 1988, UCI; Ogier du Terrail et al. 2022, arXiv 2210.04620
    "adult": Adult,  # Becker and Kohavi 1996, UCI
    "parkinsons": Parkinsons,  # Tsanas et al. 2010, UCI
    "synthetic": Synthetic,  # Li et al. 2018, arXiv 1812.06127
    "csv": Csv,
    "parquet": Parquet,
}

__all__ = ["SOURCES", "DataSource", "Dataset", "Digits", "Examples", "Mnist"]
