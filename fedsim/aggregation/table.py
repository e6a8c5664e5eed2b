"""The table of what ``[algorithm] aggregation`` may be."""

from __future__ import annotations

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.bulyan import Bulyan
from fedsim.aggregation.centred_clipping import CentredClipping
from fedsim.aggregation.fltrust import FLTrust
from fedsim.aggregation.geometric_median import GeometricMedian
from fedsim.aggregation.krum import Krum, MultiKrum
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.median import Median
from fedsim.aggregation.norm_bound import NormBound
from fedsim.aggregation.trimmed_mean import TrimmedMean

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mean": Mean,  # McMahan et al. 2017, arXiv 1602.05629
    "median": Median,  # Yin et al. 2018, arXiv 1803.01498
    "trimmed_mean": TrimmedMean,  # Yin et al. 2018, arXiv 1803.01498
    "krum": Krum,  # Blanchard et al. 2017, arXiv 1703.02757
    "multi_krum": MultiKrum,  # Blanchard et al. 2017, arXiv 1703.02757
    "bulyan": Bulyan,  # El Mhamdi et al. 2018, arXiv 1802.07927
    "geometric_median": GeometricMedian,  # Pillutla et al. 2022, arXiv 1912.13445
    "centred_clipping": CentredClipping,  # Karimireddy et al. 2021, arXiv 2012.10333
    "fltrust": FLTrust,  # Cao et al. 2021, arXiv 2012.13995
    "norm_bound": NormBound,  # Sun et al. 2019, arXiv 1911.07963
}
