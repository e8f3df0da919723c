"""How many packs a window has, from sums over its row groups alone: no row is looked at.

In: sums and a histogram of row sizes of each row group (`sizes.GroupSizes`). Out: which groups make up each window
of an epoch, and the number of packs of each (`windows_of_epoch`), for which `deal` is certain to keep the budget.

A window gets as many packs as its tokens fill to `TARGET` of the budget, which leaves `deal` room to balance cost as
well; more where no rule of `bounds` is certain that they suffice; and never more than are needed if every pack held as
many of the largest row as it can: rows of one size `s` fill `floor(B / s) * s` of `B` tokens.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interlace.contract.errors import DataError
from interlace.data.plan.bounds import classes_above, longest_first_needs, rounds_may_fit, rounds_need, two_classes, up
from interlace.data.plan.certain import deal_by_tokens
from interlace.data.plan.sizes import GroupSizes, Ints, Sums, sums_of_windows

TARGET = 0.99
"""Share of the budget that is asked of a window's packs."""
TIGHTEST = 0.998
"""Share that is taken rather than one pack more: of 36 packs, a pack is 2.8 %. Slowest over mean: up to 0.002 more."""
TRIES = 3
"""Numbers of packs that are tried by each rule between those wanted and those that dealing longest first needs."""
REACH, SLACK = 6, 0.1
"""A window may end that many groups, and that share of its tokens, before or after its even part of an epoch."""
CHUNK = 1024
"""Windows counted at once: of 80 bins, 0.7 MB an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """What decides windows besides the data; `shuffle=False` takes row groups in file order.

    Windows differ in cost by token as samples do: packs of 43 rows of three unlike fields take the slowest of 256 ranks
    1.0103 times the mean with windows of 100 packs, 1.006 with 200, 1.0045 with 300.
    """

    seed: int
    token_budget: int
    window_packs: int = 100
    shuffle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochWindows:
    """The `W` windows of an epoch.

    Args:
        groups: int64 `[G]`, row groups, window by window, in file order within each.
        starts: int64 `[W + 1]`, where each window's groups begin in `groups`, then `G`.
        num_packs: int64 `[W]`; 0 for a window without a usable row.
    """

    groups: Ints
    starts: Ints
    num_packs: Ints

    def groups_of(self, index: int) -> Ints:
        """Row groups of a window, in file order."""
        return self.groups[self.starts[index] : self.starts[index + 1]]


def windows_of_epoch(table: GroupSizes, settings: WindowSettings, epoch: int) -> EpochWindows:
    """All windows of an epoch, a pure function of its arguments; 100,000 groups take about a tenth of a second.

    Groups are taken in an order drawn from seed and epoch. Windows have equal tokens, about `window_packs` packs, but
    end where rounding their number of packs up loses least.

    Raises:
        DataError: a row is larger than the budget.
    """
    order = np.arange(len(table.rows))
    if settings.shuffle:
        order = np.random.default_rng((settings.seed, epoch)).permutation(order)
    starts = _cut(table.tokens[order], TARGET * settings.token_budget, settings.window_packs)
    window = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = order[np.lexsort((order, window))]
    return EpochWindows(groups=order, starts=starts, num_packs=count_packs(table, order, starts, settings.token_budget))


def _cut(tokens: Ints, unit: float, window_packs: int) -> Ints:
    """Where windows begin among groups of so many tokens, then the number of groups; `unit` tokens make a pack."""
    if not len(tokens):
        return np.zeros(1, np.int64)
    ends = [0, *np.cumsum(tokens).tolist()]
    starts, last = [0], len(tokens)
    while starts[-1] < last:
        begin = starts[-1]
        left = ends[last] - ends[begin]
        windows = max(1, round(left / (unit * window_packs)))
        starts.append(last if windows == 1 else _end(ends, begin, left / windows, unit))
    return np.array(starts, np.int64)


def _end(ends: list[int], begin: int, share: float, unit: float) -> int:
    """The end of a window that begins at a group: near its share of tokens, where rounding loses least."""
    last, base = len(ends) - 1, ends[begin]
    even = min(bisect_left(ends, base + share, begin + 1), last)
    best, least = even, float("inf")
    for end in range(max(begin + 1, even - REACH), min(even + REACH, last) + 1):
        packs = (ends[end] - base) / unit
        off = abs(ends[end] - base - share)
        if off > SLACK * share or packs < 1:
            continue
        lost = (-packs % 1.0) / packs + 1e-3 * off / share  # the last only between equals
        if lost < least:
            best, least = end, lost
    return best


def count_packs(table: GroupSizes, groups: Ints, starts: Ints, budget: int) -> Ints:
    """The number of packs of each window, int64 `[W]`.

    Args:
        table: of all groups.
        groups: groups of the windows, one window after the other.
        starts: int64 `[W + 1]`, where each window's begin there (none is empty), then how many there are.
        budget: most tokens of a pack.

    Raises:
        DataError: a row is larger than the budget.
    """
    too_large = int(table.largest.max(initial=0))
    if too_large > budget:
        raise DataError(
            f"`batch.token_budget` must be at least {too_large} (largest sample, row group"
            f" {int(table.largest.argmax())}), but is {budget}"
        )
    counted = [np.zeros(0, np.int64)]
    for first in range(0, len(starts) - 1, CHUNK):
        sums = sums_of_windows(table, groups, starts[first : first + CHUNK + 1])
        counted.append(_num_packs(sums, budget))
    return np.concatenate(counted)


def count_by_dealing(windows: EpochWindows, num_tokens: NDArray[np.integer], starts: Ints, budget: int) -> EpochWindows:
    """The same windows with the fewest packs that their rows are found to fit into, where rules are certain of more.

    For splits so small that all rows may be looked at, about 2 µs each and try: budgets of a few hundred tokens and
    rows of dozens, of which the rules are certain to fill 95 % and these packs are filled to 98 or 99.

    Args:
        windows: of an epoch.
        num_tokens: `[N]`, tokens of each row of the split; 0 for rows that can't be used.
        starts: int64 `[G + 1]`, first row of each group, then `N`.
        budget: most tokens of a pack.
    """
    counted = windows.num_packs.copy()
    for index, most in enumerate(windows.num_packs.tolist()):
        rows = np.concatenate([num_tokens[starts[g] : starts[g + 1]] for g in windows.groups_of(index)])
        tokens = rows[rows > 0].astype(np.int64)
        first = int(_wanted(tokens.sum(keepdims=True), budget)[0])
        tries = (packs for packs in range(first, most) if deal_by_tokens(tokens, packs, budget) is not None)
        counted[index] = next(tries, most)
    return EpochWindows(groups=windows.groups, starts=windows.starts, num_packs=counted)


def wanted_packs(tokens: int, budget: int) -> int:
    """Packs that a window of so many tokens should have."""
    return int(_wanted(np.array([tokens]), budget)[0])


def _wanted(tokens: Ints, budget: int) -> Ints:
    """Packs that windows of so many tokens should have."""
    wanted = up(tokens, TARGET * budget)
    return wanted - ((wanted > 1) & (tokens <= TIGHTEST * budget * (wanted - 1)))


def _num_packs(sums: Sums, budget: int) -> Ints:
    wanted = _wanted(sums.tokens, budget)
    by_number = up(sums.rows, budget // np.maximum(sums.largest, 1))
    safe = np.minimum(longest_first_needs(sums, budget), by_number)
    doubtful = np.flatnonzero(safe > wanted)
    if len(doubtful):
        safe[doubtful] = _fewest(sums.pick(doubtful), wanted[doubtful], safe[doubtful], budget)
    return np.minimum(np.maximum(wanted, safe), by_number)


def _fewest(sums: Sums, wanted: Ints, safe: Ints, budget: int) -> Ints:
    """Fewer packs than are safe by the first rule, where another is certain of them."""
    pairs = two_classes(sums, wanted)
    if len(pairs):
        safe = _try(lambda some, packs: _classes_need(some, packs, pairs, budget), sums, wanted, safe)
    rest = np.flatnonzero((safe > wanted) & rounds_may_fit(sums, safe, budget))
    if len(rest):
        some = sums.pick(rest)
        safe[rest] = _try(lambda part, packs: rounds_need(part, packs, budget), some, wanted[rest], safe[rest])
    return safe


def _classes_need(sums: Sums, packs: Ints, pairs: Ints, budget: int) -> Ints:
    """As `rounds_need`, of the third rule."""
    level = budget - classes_above(sums, packs, pairs).min(axis=1)
    return up(sums.tokens, np.maximum(level, 1.0))


def _try(need: Callable[[Sums, Ints], Ints], sums: Sums, wanted: Ints, safe: Ints) -> Ints:
    """The fewest packs of those tried that a rule doesn't need more than; `safe` where there is none."""
    best, packs, todo = safe.copy(), wanted, np.arange(len(safe))
    for _ in range(TRIES):
        needed = need(sums, packs)
        certain = needed <= packs
        best[todo[certain]] = np.minimum(best[todo[certain]], packs[certain])
        going = ~certain & (np.maximum(needed, packs + 1) < best[todo])
        if not going.any():
            break
        packs = np.maximum(needed, packs + 1)[going]
        sums, todo = sums.pick(np.flatnonzero(going)), todo[going]
    return best
