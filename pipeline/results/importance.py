"""How much each searched setting moved the result: one-way analysis of variance over trials, bins for numbers.

The share is adjusted eta squared (epsilon squared, Kelley 1935): the variance between groups over the whole variance,
less what groups of that size would explain by chance; at least 0. Numbers are cut into bins of equally many trials, so
a logarithmic scale gives the same bins. It sees one setting at a time: settings that matter only together show little.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 4
FEWEST_IN_A_BIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What one setting did.

    Args:
        path: of the setting.
        share: of the result's variance that it explains, 0 to 1.
        rank_correlation: Spearman's rho of setting and result, -1 to 1; None for choices.
        num_trials: that it was set in.
    """

    path: str
    share: float
    rank_correlation: float | None
    num_trials: int


def importances(settings: Sequence[Mapping[str, Any]], results: Sequence[float]) -> list[Importance]:
    """The importance of each setting, the greatest first.

    Args:
        settings: of each trial, value by path; None where a setting did not count.
        results: of each trial, at an equal share of their lengths.
    """
    paths = list(dict.fromkeys(path for values in settings for path in values))
    found = []
    for path in paths:
        pairs = [(s[path], r) for s, r in zip(settings, results, strict=True) if s.get(path) is not None]
        values, outcome = [v for v, _ in pairs], np.array([r for _, r in pairs], np.float64)
        numeric = is_numeric(values)
        found.append(
            Importance(
                path=path,
                share=explained(bins(values) if numeric else [json.dumps(v) for v in values], outcome),
                rank_correlation=spearman(np.array(values, np.float64), outcome) if numeric else None,
                num_trials=len(pairs),
            )
        )
    return sorted(found, key=lambda item: -item.share)


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether values are numbers with an order (true and false are choices)."""
    return bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def bins(values: Sequence[float]) -> list[int]:
    """The bin of each number: equal numbers share one, and bins hold about equally many (3 or more where possible)."""
    count = max(1, min(MOST_BINS, len(values) // FEWEST_IN_A_BIN))
    distinct = sorted(set(values))
    if len(distinct) <= count:
        return [distinct.index(v) for v in values]
    edges = np.quantile(values, np.arange(1, count) / count)
    return [int(np.searchsorted(edges, v, side="right")) for v in values]


def explained(groups: Sequence[Any], results: NDArray[np.float64]) -> float:
    """Adjusted eta squared of results over groups; 0 where there is nothing to compare."""
    labels = list(dict.fromkeys(groups))
    number, count = len(results), len(labels)
    total = float(((results - results.mean()) ** 2).sum()) if number else 0.0
    if count < 2 or number <= count or total <= 0:
        return 0.0
    which = np.array([labels.index(g) for g in groups])
    within = sum(float(((results[which == i] - results[which == i].mean()) ** 2).sum()) for i in range(count))
    between = total - within
    return max(0.0, (between - (count - 1) * within / (number - count)) / total)


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one of both never changes."""
    if len(one) < 2:
        return 0.0
    first, second = _ranks(one), _ranks(other)
    if not (first.std() > 0 and second.std() > 0):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - (counts - 1) / 2)[inverse]).astype(np.float64)
