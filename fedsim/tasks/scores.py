"""Scores of a classifier beyond accuracy: class by class, AUROC, and calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]


def class_scores(predicted: Classes, labels: Classes, classes: int) -> dict[str, NDArray[Any]]:
    """Records, precision, recall and F1 of every class ``[classes]``; NaN where one is not defined.

    Precision needs a prediction of the class, recall a record of it, and F1 either of the two.
    """
    right = np.bincount(labels[predicted == labels], minlength=classes)
    held, named = np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)
    return {
        "records": held,
        "precision": _share(right, named),
        "recall": _share(right, held),
        "f1": _share(2 * right, held + named),
    }


def _share(part: Classes, whole: Classes) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """How probably a positive record scores above a negative one, ties as half; NaN where there is but one kind.

    Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros or np.isnan(scores).any():
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of equal scores the mean of theirs
    return float((ranks[place][positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 bins of confidence, each weighted by its records.

    Expected calibration error (Guo et al. 2017, arXiv 1706.04599); a bin holds its upper edge.
    """
    if not np.isfinite(confidence).all():
        return float("nan")
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))
