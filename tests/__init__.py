"""The tests; the first thing of them that is imported."""

import random

from beartype._check.code import codemain

# What beartype looks at of an array's type it picks by Python's global generator, which fedsim's code must not touch:
# tests/conformance/guard.py could not tell one from the other.
codemain.getrandbits = random.Random(0).getrandbits
