"""Of which metrics more is better: one rule for tails over clients, sweeps and reports."""

from __future__ import annotations

# Of these, and of what ends with one of their names, more is better; of all others (losses, errors) less is.
MORE_IS_BETTER = frozenset(["accuracy", "macro_f1", "auroc", "r2", "psnr", "precision", "recall"])
# What an ending says of which clients a metric is.
ENDINGS = ("_unseen", "_mean", "_p10", "_p90", "_worst", "_personal")


def more_is_better(metric: str) -> bool:
    """Whether a larger value is better, also of a mean or tail over clients: "accuracy_worst" as "accuracy"."""
    for ending in ENDINGS:
        metric = metric.removesuffix(ending)
    return metric in MORE_IS_BETTER or metric.endswith(tuple(f"_{name}" for name in MORE_IS_BETTER))
