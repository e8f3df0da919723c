"""Mixing: which rows of several sources make up each window of a run, with exact shares. Integers only, pure.

A window of a mix holds `window_rows` draws. Each source gives its share of them, rounded down or up so that every
window is exact to one draw, and goes round its own rows in passes of its own: a small source with a large weight is
seen more often, and none is cut off. A *draw* is `row + num_rows * pass`, so that a row drawn twice is augmented anew.

Worked example: weights 0.5, 0.3, 0.2 and windows of 1,000 draws give 500, 300 and 200 rows of the sources; a source of
400 rows and weight 0.5 is in its pass 0 for the first 400 draws of window 0 and in its pass 1 for the next 100.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0.6180339887498949
"""Fractional part of the golden ratio: its multiples mod 1 are spread evenly (Weyl 1916), so leftover draws are too."""


SHUFFLED_GROUPS = 8
"""Row groups of a source that are shuffled together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSettings:
    """Weights of the sources, in their order, and draws in a window."""

    weights: tuple[float, ...]
    window_rows: int


@dataclass(frozen=True, kw_only=True)
class Mix:
    """The draws of a mix.

    Args:
        settings: weights and size of a window.
        groups: for each source its row groups as `[first row, end)` pairs, int64 `[groups, 2]`.
        usable: bool `[N]`, rows that can be drawn.
        seed: of the order.
    """

    settings: MixSettings
    groups: tuple[NDArray[np.int64], ...]
    usable: NDArray[np.bool_]
    seed: int

    def draws(self, window: int) -> NDArray[np.int64]:
        """The draws of a window of the run, int64 `[window_rows]`, source by source."""
        begin, end = self.counts_before(window), self.counts_before(window + 1)
        parts = [self._stretch(s, int(begin[s]), int(end[s])) for s in range(len(self.groups))]
        return np.concatenate(parts)

    def counts_before(self, window: int) -> NDArray[np.int64]:
        """Draws of each source in all windows before this one."""
        weights = np.array(self.settings.weights) / sum(self.settings.weights)
        ideal = weights * self.settings.window_rows
        whole = np.floor(ideal + 1e-9).astype(np.int64)
        left = tuple(np.clip(ideal - whole, 0, 1).tolist())
        return window * whole + _leftover(left, self.settings.window_rows - int(whole.sum()), window)

    def _stretch(self, source: int, begin: int, end: int) -> NDArray[np.int64]:
        """Draws `begin <= n < end` of the endless stream of one source."""
        size = int(sum(self.usable[a:b].sum() for a, b in self.groups[source].tolist()))
        parts = []
        while begin < end:
            number, first = divmod(begin, size)
            stop = min(size, first + end - begin)
            parts.append(self._order(source, number)[first:stop] + number * len(self.usable))
            begin += stop - first
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _order(self, source: int, number: int) -> NDArray[np.int64]:
        """The usable rows of a source in the order of one pass: row groups shuffled, then rows within a few groups."""
        rng = np.random.default_rng((self.seed, source, number))
        groups = rng.permutation(self.groups[source])
        parts = []
        for first in range(0, len(groups), SHUFFLED_GROUPS):
            rows = np.concatenate([np.arange(a, b) for a, b in groups[first : first + SHUFFLED_GROUPS].tolist()])
            parts.append(rng.permutation(rows[self.usable[rows]]))
        return np.concatenate(parts)


def _leftover(shares: tuple[float, ...], count: int, windows: int) -> NDArray[np.int64]:
    """How many of the `count` draws a window that rounding leaves over each source got in so many windows."""
    if not count or not windows:
        return np.zeros(len(shares), np.int64)
    total: NDArray[np.int64] = _running(shares, count, 1 << max(8, (windows - 1).bit_length()))[windows - 1]
    return total


@lru_cache(maxsize=4)
def _running(shares: tuple[float, ...], count: int, windows: int) -> NDArray[np.int64]:
    """Int64 `[windows, sources]`: leftover draws of each source up to and with each window (systematic sampling)."""
    edges = np.minimum(np.cumsum((0.0, *shares)), count)
    edges[-1] = count
    points = (np.arange(windows) * GOLDEN) % 1.0
    reached = np.ceil(edges[None, :] - points[:, None])  # sampling points below each edge
    return np.cumsum(np.diff(reached, axis=1).astype(np.int64), axis=0)
