"""Scores of readings by their rank among the training readings of the channel, instead of by their size.

    fit: readings -> quantiles -> knots (value, normal score)      score: a reading -> interpolated between knots

The score of a reading is the normal quantile of its share in the training readings (van der Waerden 1952; scikit-learn
calls it a quantile transform), brought to mean 0 and deviation 1. Skewed channels become symmetric, and an impossible
reading lies at the edge of the plausible ones, not thousands of deviations away.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import final

import numpy as np
from numpy.typing import NDArray

NUM_QUANTILES = 101
"""Of a channel; the outermost lie at 0.5 % and 99.5 %, beyond which all readings score alike."""

ROW = 128
"""Places for the knots of a channel: a power of two above `NUM_QUANTILES`."""

PART, MOST = 400, 4000
"""Points that stand for the readings of a channel in one row group, and in all."""

Line = NDArray[np.float64]

Points = tuple[list[float], list[float]]
"""Values, ascending, and their weights."""

Knots = tuple[Line, Line]


@final
class Quantiles:
    """The distribution of the readings of a channel as weighted points, in bounded memory and mergeable.

    Up to `PART` readings are kept as they are; of more, the `PART` quantiles in the middle of equal shares, so that one
    step changes the share below any value by at most 1 / (2 * PART). Merged points are joined, and thinned to `MOST` in
    the same way when they are twice as many.
    """

    def __init__(self, readings: NDArray[np.float64] | None = None) -> None:
        values = np.zeros(0) if readings is None else np.sort(readings)
        self._values, self._weights = _thinned(values, np.ones(len(values)), PART)

    def state(self) -> Points:
        """The points as plain JSON, for `merge`."""
        return self._values.tolist(), self._weights.tolist()

    def merge(self, points: Points) -> None:
        """Take in the points of a `state`."""
        values, weights = (
            np.append(own, more) for own, more in zip((self._values, self._weights), points, strict=True)
        )
        order = np.argsort(values, kind="stable")
        self._values, self._weights = values[order], weights[order]
        if len(order) > 2 * MOST:
            self._values, self._weights = _thinned(self._values, self._weights, MOST)

    def at(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """The quantiles of shares between 0 and 1; there must be a point."""
        return _weighted_quantiles(self._values, self._weights, shares)

    def __len__(self) -> int:
        return len(self._values)


def _thinned(values: Line, weights: Line, most: int) -> tuple[Line, Line]:
    if len(values) <= most:
        return values, weights
    return _weighted_quantiles(values, weights, (np.arange(most) + 0.5) / most), np.full(most, weights.sum() / most)


def _weighted_quantiles(values: Line, weights: Line, shares: Line) -> Line:
    """The first of the sorted values up to which at least a share of the weight lies."""
    below = np.cumsum(weights)
    found: Line = values[np.minimum(np.searchsorted(below, shares * below[-1] * (1 - 1e-12)), len(values) - 1)]
    return found


def fit_knots(quantiles: Quantiles) -> Knots:
    """Distinct values, ascending, and their scores.

    Quantiles that share a value share the mean of their scores. A constant channel scores 0, one without readings too.
    """
    if not len(quantiles):
        return np.zeros(1), np.zeros(1)
    shares = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    values = quantiles.at(shares)
    normal = np.array([NormalDist().inv_cdf(share) for share in shares.tolist()])
    knots, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    scores = np.bincount(at, normal) / counts
    mean = (scores * counts).sum() / NUM_QUANTILES
    deviation = np.sqrt(((scores - mean) ** 2 * counts).sum() / NUM_QUANTILES)
    return knots, (scores - mean) / (deviation if len(knots) > 1 else 1.0)


@final
class NormalScores:
    """Scores of readings by the knots of their channels, clipped at the outermost ones.

    One binary search over all channels together: `np.interp` for each of 30 channels took 4 times as long.

    Args:
        knots: values and scores of each channel, at most `ROW` of them.
    """

    def __init__(self, knots: Sequence[Knots]) -> None:
        shape = len(knots), ROW
        values, scores, slopes = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        self._least, self._most = np.zeros(len(knots)), np.zeros(len(knots))
        for c, (value, score) in enumerate(knots):
            values[c, : len(value)], scores[c, : len(value)] = value, score
            slopes[c, : len(value) - 1] = np.diff(score) / np.diff(value)
            self._least[c], self._most[c] = value[0], value[-1]
        self._values, self._scores, self._slopes = values.ravel(), scores.ravel(), slopes.ravel()

    def __call__(self, channels: NDArray[np.intp], readings: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score of each reading `[n]` of channels `[n]`."""
        readings = np.minimum(np.maximum(readings, self._least[channels]), self._most[channels])
        at = channels * ROW
        step = ROW // 2
        while step:
            at = at + step * (self._values[at + step] <= readings)
            step //= 2
        scores: NDArray[np.float64] = self._scores[at] + self._slopes[at] * (readings - self._values[at])
        return scores
