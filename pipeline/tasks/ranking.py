"""Metrics of rankings: how well scores put the samples that have a label above those that don't.

In: `scores` (any float, higher is likelier) and `hits` (bool), both `[n]`. Out: a number from 0 to 1, or nan where it
is not defined. Samples of equal score are one threshold, so no result depends on the order of samples.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Hits = NDArray[np.bool_]


def auroc(scores: Scores, hits: Hits) -> float:
    """Area under the receiver operating characteristic: the chance that a hit scores above a miss, ties half.

    By ranks, as the statistic of Mann and Whitney (1947). nan without a hit or without a miss.
    """
    num_hits, num_misses = int(hits.sum()), int((~hits).sum())
    if not num_hits or not num_misses:
        return math.nan
    _, at, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[at[hits]].sum() - num_hits * (num_hits + 1) / 2) / (num_hits * num_misses))


def average_precision(scores: Scores, hits: Hits) -> float:
    """Area under the precision-recall curve (AUPRC): sum of precision times the step in recall, without interpolation.

    nan without a hit.
    """
    found, said = _found_and_said(scores, hits)
    if not len(found) or not found[-1]:
        return math.nan
    return float((np.diff(found, prepend=0) * (found / said)).sum() / found[-1])


def min_recall_precision(scores: Scores, hits: Hits) -> float:
    """The largest min(recall, precision) over all thresholds; nan without a hit.

    Score of event 1 of the PhysioNet / Computing in Cardiology Challenge 2012 (Silva et al. 2012), there at a threshold
    of the contestant's, here at the best one.
    """
    found, said = _found_and_said(scores, hits)
    if not len(found) or not found[-1]:
        return math.nan
    return float((found / np.maximum(said, found[-1])).max())


def macro(metric: Callable[[Scores, Hits], float], scores_SC: Scores, hits_SC: Hits) -> float:
    """The mean of a metric over the classes, each against the rest, where it is defined; nan where nowhere."""
    return mean_defined(metric(scores_SC[:, c], hits_SC[:, c]) for c in range(hits_SC.shape[1]))


def mean_defined(values: Iterable[float]) -> float:
    """The mean of those that are not nan; nan if all are."""
    kept = [v for v in values if not math.isnan(v)]
    return sum(kept) / len(kept) if kept else math.nan


def _found_and_said(scores: Scores, hits: Hits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each distinct score from the highest down: hits, and samples, that score at least as high."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    return np.cumsum(hits[order], dtype=np.int64)[last], last.astype(np.int64) + 1
