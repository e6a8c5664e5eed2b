"""The inverse questions: how much noise a target epsilon needs, and how many steps it allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedsim.privacy.accounting import check_delta, epsilon, rough_epsilon
from fedsim.privacy.cache import remembered
from fedsim.privacy.events import Composition

TOLERANCE = 1e-4  # relative, of the noise multiplier
UNLIMITED = 1 << 31  # what stands for a count of steps without an end

_COARSENESS, _ROUGH_TOLERANCE = 8.0, 5e-3  # the first search has 64 times the error, about 0.5 %
_LOWEST, _HIGHEST = math.log(1e-3), math.log(1e7)  # logarithms of the noise multipliers that are searched
_LARGEST_MOVE = math.log(8.0)
_SECANT_STEPS, _STEPS = 12, 60
_PROBES = (0.31, 1.7, 23.0)  # what a function of the noise returns at these tells it from another one in the disk cache


@dataclass
class _Search:
    """A safeguarded secant for log(epsilon / target), nearly linear in the logarithm of the noise multiplier."""

    tolerance: float
    slope: float | None = None
    low: float = -math.inf  # too little noise
    high: float = math.inf  # enough noise
    last: tuple[float, float] | None = None

    def learn(self, x: float, y: float) -> bool:
        """Take in one evaluation; True once ``high`` is within the tolerance of the least noise."""
        self.low, self.high = (self.low, min(self.high, x)) if y <= 0 else (max(self.low, x), self.high)
        if self.last is not None and x != self.last[0] and math.isfinite(y):
            self.slope = min(max((y - self.last[1]) / (x - self.last[0]), -30.0), -0.3)
        self.last = (x, y) if math.isfinite(y) else None
        if y <= 0 and self.slope is not None and y >= self.tolerance * self.slope:
            return True
        return self.high - self.low <= self.tolerance or (x <= _LOWEST and y <= 0)

    def propose(self, x: float, y: float, step: int) -> float:
        """The next logarithm to try; it aims half the tolerance into the private side."""
        slope = self.slope or -1.2
        move = 0.5 * self.tolerance - y / slope
        following = x + min(max(move, -_LARGEST_MOVE), _LARGEST_MOVE)
        bracketed = math.isfinite(self.low) and math.isfinite(self.high)
        if bracketed and (step > _SECANT_STEPS or not self.low < following < self.high):
            return (self.low + self.high) / 2
        return min(max(following, _LOWEST), _HIGHEST)


def _solve(search: _Search, excess: Callable[[float], float], x: float) -> float:
    for step in range(_STEPS):
        y = excess(x)
        if search.learn(x, y):
            break
        if x >= _HIGHEST and y > 0:
            raise ValueError(f"no noise multiplier up to {math.exp(_HIGHEST):.0e} reaches the target epsilon")
        x = search.propose(x, y, step)
    return search.high


def calibrate_noise(
    event_at: Callable[[float], Composition], target_epsilon: float, delta: float, guess: float | None = None
) -> float:
    """Smallest noise multiplier whose composition has epsilon <= target_epsilon, to 1e-4 of itself, never too small.

    ``event_at`` maps a noise multiplier to the composition; ``guess`` is a starting value. Returns 0 where no noise is
    needed and 0.001 where that already suffices. Raises ValueError where no noise multiplier up to 1e7 does. A noise
    from the disk cache is used only after its epsilon has been found to be within the target.
    """
    check_delta(delta)
    if not 0 < target_epsilon < math.inf:
        raise ValueError(f"target_epsilon must be positive and finite, got {target_epsilon}")
    if epsilon(event_at(0.0), delta) <= target_epsilon:
        return 0.0
    return remembered(
        f"noise from {guess!r} for epsilon {target_epsilon!r} at delta {delta!r} of {[event_at(z) for z in _PROBES]!r}",
        lambda: _least_noise(event_at, target_epsilon, delta, guess),
        holds=lambda noise: epsilon(event_at(noise), delta) <= target_epsilon,
    )


def _least_noise(
    event_at: Callable[[float], Composition], target_epsilon: float, delta: float, guess: float | None
) -> float:
    def relative(value: float) -> float:
        return math.log(value / target_epsilon) if value > 0 else -math.inf

    rough, exact = _Search(_ROUGH_TOLERANCE), _Search(TOLERANCE)
    start = min(max(math.log(guess or 1.0), _LOWEST), _HIGHEST)
    near = _solve(rough, lambda x: relative(rough_epsilon(event_at(math.exp(x)), delta, _COARSENESS)), start)
    exact.slope = rough.slope
    return math.exp(_solve(exact, lambda x: relative(epsilon(event_at(math.exp(x)), delta)), near))
