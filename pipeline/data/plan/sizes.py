"""Row sizes as sums: what the plan knows of row groups, and of windows of them, without looking at rows.

Tokens of rows are counted in bins: sizes below 32 have one each, others 16 an octave (a bin is at most 6 % wide).
Sums of bins of row groups are sums of bins of their window.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Unsigned = NDArray[np.unsignedinteger]


def bin_of(sizes: Ints) -> Ints:
    """The bin of each size: sizes below 32 by themselves, then 16 bins from each power of two to the next."""
    shifts = np.maximum(np.frexp(sizes.astype(np.float64))[1].astype(np.int64) - 5, 0)
    bins: Ints = 16 * shifts + (sizes >> shifts)
    return bins


def lowest_of(bins: Ints) -> Ints:
    """The smallest size of each bin."""
    shifts = np.maximum(bins // 16 - 1, 0)
    sizes: Ints = (bins - 16 * shifts) << shifts
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSizes:
    """What the plan knows of `G` row groups: 240 bytes each for groups of 250 rows of 32 to 1,000 tokens.

    Args:
        rows, tokens, largest: int64 `[G]`: usable rows, their tokens, tokens of the largest; 0 where there is none.
        first_bin: the bin (`bin_of`) of the first column below.
        counts: unsigned `[G, J]`: usable rows in each bin, of those that occur in the split and those between.
        excess: unsigned `[G, J]`: their tokens above the smallest size of the bin.
    """

    rows: Ints
    tokens: Ints
    largest: Ints
    first_bin: int
    counts: Unsigned
    excess: Unsigned


def group_sizes(num_tokens: NDArray[np.integer], starts: Ints) -> GroupSizes:
    """The table of rows whose tokens are known.

    Args:
        num_tokens: `[N]`, tokens of each row; 0 for rows that can't be used.
        starts: int64 `[G + 1]`, first row of each group, then `N`; groups may be empty.
    """
    groups = len(starts) - 1
    used = np.flatnonzero(num_tokens)
    sizes, owners = num_tokens[used].astype(np.int64), np.searchsorted(starts, used, side="right") - 1
    bins = bin_of(sizes)
    first, end = (int(bins.min()), int(bins.max()) + 1) if len(bins) else (0, 1)
    cells, columns = owners * (end - first) + bins - first, groups * (end - first)
    largest = np.zeros(groups, np.int64)
    np.maximum.at(largest, owners, sizes)
    return GroupSizes(
        rows=np.bincount(owners, minlength=groups).astype(np.int64),
        tokens=add_up(sizes, owners, groups),
        largest=largest,
        first_bin=first,
        counts=_narrow(add_up(np.ones_like(sizes), cells, columns)).reshape(groups, end - first),
        excess=_narrow(add_up(sizes - lowest_of(bins), cells, columns)).reshape(groups, end - first),
    )


def add_up(numbers: Ints, owners: Ints, count: int) -> Ints:
    """The sum of each owner's numbers, exactly, int64 `[count]`."""
    total = np.zeros(count, np.int64)
    np.add.at(total, owners, numbers)
    return total


def _narrow(numbers: Ints) -> Unsigned:
    """In the least unsigned type that holds them."""
    narrow: Unsigned = numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
    return narrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums of `W` windows over `J` bins.

    Args:
        rows, tokens, largest: int64 `[W]`, as in `GroupSizes`.
        low, high: int64 `[J]`, smallest and largest size of each bin.
        counts, totals: int64 `[W, J]`, rows in each bin and their tokens.
    """

    rows: Ints
    tokens: Ints
    largest: Ints
    low: Ints
    high: Ints
    counts: Ints
    totals: Ints

    @property
    def sizes(self) -> Ints:
        """The largest size that a row of each bin can have, `[W, J]`."""
        return np.minimum(self.high, self.largest[:, None])

    def pick(self, windows: Ints) -> "Sums":
        """Some of the windows."""
        return Sums(
            rows=self.rows[windows],
            tokens=self.tokens[windows],
            largest=self.largest[windows],
            low=self.low,
            high=self.high,
            counts=self.counts[windows],
            totals=self.totals[windows],
        )


def sums_of_windows(table: GroupSizes, groups: Ints, starts: Ints) -> Sums:
    """Sums of windows, none of which is without groups.

    Args:
        table: of all groups.
        groups: those of the windows, one window after the other.
        starts: int64 `[W + 1]`, where each window begins in `groups`, then where the last ends.
    """
    taken, at = groups[starts[0] : starts[-1]], starts[:-1] - starts[0]
    edges = lowest_of(table.first_bin + np.arange(table.counts.shape[1] + 1))
    counts = np.add.reduceat(table.counts[taken], at, axis=0, dtype=np.int64)
    excess = np.add.reduceat(table.excess[taken], at, axis=0, dtype=np.int64)
    return Sums(
        rows=np.add.reduceat(table.rows[taken], at),
        tokens=np.add.reduceat(table.tokens[taken], at),
        largest=np.maximum.reduceat(table.largest[taken], at),
        low=edges[:-1],
        high=edges[1:] - 1,
        counts=counts,
        totals=counts * edges[:-1] + excess,
    )


def from_top(columns: Ints) -> Ints:
    """The sum of each column and those after it, then 0: `[W, J]` -> `[W, J + 1]`."""
    return np.pad(np.cumsum(columns[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
