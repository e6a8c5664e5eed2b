"""How many examples a property is tried on: few and the same ones in the suite, many and new ones in the campaign."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("FEDSIM_EXAMPLES", "1"))

# Draws what a mutator asks for, so that Hypothesis can shrink it.
RANDOMS = st.randoms(use_true_random=False)


def tried(examples: int) -> settings:
    """Decorator: try a property so often, or as often times FEDSIM_EXAMPLES."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        suppress_health_check=quiet,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
