"""The table of what ``[asynchronous]`` may be."""

from __future__ import annotations

from fedsim.asynchronous.fedasync import FedAsync
from fedsim.asynchronous.fedbuff import FedBuff
from fedsim.asynchronous.methods import Asynchronous

ASYNCHRONOUS: dict[str, type[Asynchronous]] = {
    "fedbuff": FedBuff,  # Nguyen et al. 2022, arXiv 2106.06639
    "fedasync": FedAsync,  # Xie et al. 2019, arXiv 1903.03934
}
