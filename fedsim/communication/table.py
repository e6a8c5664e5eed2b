"""The table of what ``[communication] compression.kind`` may be."""

from __future__ import annotations

from fedsim.communication.base import Compression
from fedsim.communication.fp16 import Fp16
from fedsim.communication.int8 import Int8
from fedsim.communication.none import Uncompressed
from fedsim.communication.qsgd import Qsgd
from fedsim.communication.random_k import RandomK
from fedsim.communication.sign import Sign
from fedsim.communication.top_k import TopK

COMPRESSIONS: dict[str, type[Compression]] = {
    "none": Uncompressed,
    "top_k": TopK,  # Aji and Heafield 2017, arXiv 1704.05021
    "random_k": RandomK,  # Konecny et al. 2016, arXiv 1610.05492
    "qsgd": Qsgd,  # Alistarh et al. 2017, arXiv 1610.02132
    "sign": Sign,  # Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847
    "fp16": Fp16,
    "int8": Int8,  # Alistarh et al. 2017, arXiv 1610.02132, section 3.3
}
