"""Opacus's accountant of privacy random variables: a second, independent numerical composition."""

from __future__ import annotations

import math
import warnings

from fedsim.privacy.accounting_opacus import prv_accountant
from fedsim.privacy.accounting_rdp import rdp_epsilon
from fedsim.privacy.events import Composition

EPSILON_ERROR = 0.01
_LARGEST_EPSILON = 50.0
_LARGEST_GRID = 1_500_000  # points summed over events; about 1 s and 500 MB


def _grid_points(composition: Composition, delta: float) -> float:
    """How many points Opacus would use, from its own formulas for domain and mesh (Gopi et al. 2021, section 5)."""
    count = sum(count for _, count in composition)
    error = delta / 1000
    mesh = EPSILON_ERROR / math.sqrt(count * math.log(12 / error) / 2)
    single = max(rdp_epsilon(((event, 1),), error / (8 * count)) for event, _ in composition)
    return len(composition) * 2 * (max(rdp_epsilon(composition, error / 4), single) + 3) / mesh


def prv_epsilon(composition: Composition, delta: float) -> float | None:
    """Upper bound on epsilon, at most 0.02 above the truth (Gopi, Lee and Wutschitz 2021, arXiv 2106.02848).

    None where it does not apply (an event that is not Poisson at a rate in (0, 1), replace-one, no noise) or would need
    too much work or more precision than a double has.
    """
    sampled = tuple((event, count) for event, count in composition if event.rate > 0)
    if not sampled or any(
        event.sampling != "poisson" or event.rate == 1 or event.relation == "replace-one" or event.noise_multiplier == 0
        for event, _ in sampled
    ):
        return None
    if rdp_epsilon(sampled, delta) > _LARGEST_EPSILON or _grid_points(sampled, delta) > _LARGEST_GRID:
        return None
    accountant = prv_accountant()()
    accountant.history = [(event.noise_multiplier, event.rate, count) for event, count in sampled]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Opacus warns about the orders it uses to size its domain
            found = max(0.0, float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR)))
            return float(f"{found:.9g}")  # the last digits depend on where the transform's memory happens to lie
    except (RuntimeError, ValueError):  # it found the discretisation or the precision insufficient
        return None
