"""Data sources: the table of what ``[data] source`` may name."""

from __future__ import annotations

from fedsim.data.adult import Adult
from fedsim.data.cifar10 import Cifar10
from fedsim.data.csv_table import Csv
from fedsim.data.custom import CustomData
from fedsim.data.dataset import Dataset, DataSource, Examples
from fedsim.data.digits import Digits
from fedsim.data.fashion_mnist import FashionMnist
from fedsim.data.heart_disease import HeartDisease
from fedsim.data.huggingface import HuggingFace
from fedsim.data.mnist import Mnist
from fedsim.data.npz import Npz
from fedsim.data.parkinsons import Parkinsons
from fedsim.data.parquet import Parquet
from fedsim.data.shakespeare import Shakespeare
from fedsim.data.synthetic import Synthetic
from fedsim.data.text import Text

SOURCES = {
    "digits": Digits,  # Alpaydin and Kaynak 1998, UCI; ships with scikit-learn
    "mnist": Mnist,  # LeCun et al. 1998; writers: Yadav and Bottou 2019
    "fashion_mnist": FashionMnist,  # Xiao et al. 2017
    "cifar10": Cifar10,  # Krizhevsky 2009
    "heart_disease": HeartDisease,  # Janosi et al. 1988, UCI; Ogier du Terrail et al. 2022, arXiv 2210.04620
    "adult": Adult,  # Becker and Kohavi 1996, UCI
    "parkinsons": Parkinsons,  # Tsanas et al. 2010, UCI
    "shakespeare": Shakespeare,  # by role: McMahan et al. 2017, Caldas et al. 2018
    "synthetic": Synthetic,  # Li et al. 2018, arXiv 1812.06127
    "csv": Csv,
    "parquet": Parquet,
    "npz": Npz,
    "text": Text,
    "hf": HuggingFace,
}

__all__ = ["SOURCES", "CustomData", "DataSource", "Dataset", "Digits", "Examples", "Mnist"]
