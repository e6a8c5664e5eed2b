"""What an (epsilon, delta) guarantee excludes, as probabilities.

By the hypothesis-testing reading of differential privacy (Wasserman and Zhou 2010, arXiv 0811.2501; Kairouz et al.
2015, arXiv 1311.0776), a test with false-alarm probability p detects with probability at most e^epsilon p + delta,
and the same holds with the two cases, or "yes" and "no", exchanged.
"""

import math


def guess_bound(epsilon: float, delta: float) -> float:
    """The largest probability with which an observer undecided between the two cases guesses right.

    It is (e^epsilon + delta) / (1 + e^epsilon), written so that a large epsilon does not overflow.
    """
    return min(1.0, (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)))


def probability_bound(probability: float, epsilon: float, delta: float) -> float:
    """The largest probability of a conclusion that has `probability` in the neighbouring case."""
    grown = 1.0 if epsilon > 700 else math.exp(epsilon) * probability + delta
    return min(grown, 1 - max(0.0, 1 - probability - delta) * math.exp(-epsilon))


def strength(epsilon: float) -> tuple[str, str]:
    """A one-word verdict on epsilon, and the sentence that says how little a verdict is."""
    bands = (
        (1, "strong", "This is a strong guarantee"),
        (4, "moderate", "This is a moderate guarantee"),
        (10, "limited", "This is a limited guarantee, of a size that is nevertheless common in practice"),
        (50, "weak", "This is weak as a guarantee: the number alone excludes little"),
        (math.inf, "practically none", "A number this large guarantees practically nothing"),
    )
    word, sentence = next((word, sentence) for limit, word, sentence in bands if epsilon <= limit)
    convention = (
        "by the conventional reading, not by a theorem: a widely used guide (Ponomareva et al. 2023, arXiv 2303.00654) "
        "calls ε up to 1 strong, up to 10 reasonable, and above 10 weak. What is acceptable depends on the data."
    )
    return word, f"{sentence}, {convention}"
