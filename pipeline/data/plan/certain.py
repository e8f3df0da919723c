"""Deals rows by tokens alone, as the rules of `bounds` say, which prove that one of them keeps the budget.

Each returns the pack of every row, int64 `[N]`. They are what is left where packs dealt by tokens and cost don't fit.
"""

import heapq

import numpy as np

from interlace.data.plan.bounds import classes_above, two_classes
from interlace.data.plan.exchange import Packs, repair
from interlace.data.plan.sizes import Ints, add_up, bin_of, group_sizes, sums_of_windows

BANDS = 3
"""How many bands are tried by dealing in rounds, the most even first."""


def fits(owner: Ints, tokens: Ints, packs: int, budget: int) -> bool:
    """Whether no pack is above the budget."""
    return int(add_up(tokens, owner, packs).max(initial=0)) <= budget


def deal_by_tokens(tokens: Ints, packs: int, budget: int) -> Ints | None:
    """The first dealing that keeps the budget, of those by the three rules and `exchanged`; None where none does."""
    if not len(tokens):
        return np.zeros(0, np.int64)
    owner: Ints | None = longest_first(tokens, packs)
    if not _keeps(owner, tokens, packs, budget):
        owner = in_rounds(tokens, packs, budget)
    if not _keeps(owner, tokens, packs, budget):
        owner = by_classes(tokens, packs)
    if not _keeps(owner, tokens, packs, budget):
        owner = exchanged(tokens, packs, budget)
    return owner if _keeps(owner, tokens, packs, budget) else None


def _keeps(owner: Ints | None, tokens: Ints, packs: int, budget: int) -> bool:
    return owner is not None and fits(owner, tokens, packs, budget)


def longest_first(tokens: Ints, packs: int) -> Ints:
    """Rule 1: longest first to the pack with the fewest tokens."""
    order = np.argsort(-tokens, kind="stable")
    heap, taken = [(0, pack) for pack in range(packs)], []
    for size in tokens[order].tolist():
        load, pack = heap[0]
        heapq.heapreplace(heap, (load + size, pack))
        taken.append(pack)
    owner = np.zeros(len(tokens), np.int64)
    owner[order] = taken
    return owner


def in_rounds(tokens: Ints, packs: int, budget: int) -> Ints | None:
    """Rule 2: a row for every pack in each round; None where no band was found for the packs short by a row."""
    order = np.argsort(-tokens, kind="stable")
    count = len(tokens)
    height = -(-count // packs)
    short = height * packs - count
    whole, band = packs - short, short * (height - 1)
    sums = np.concatenate([[0], np.cumsum(tokens[order])])
    starts = np.arange(height + 1) * whole
    starts = starts[starts + band <= count]
    of_band = sums[starts + band] - sums[starts]
    fullest = np.maximum(of_band / max(short, 1), (sums[-1] - of_band) / max(whole, 1))
    for start in starts[np.argsort(fullest, kind="stable")[:BANDS]].tolist():
        owner = np.empty(count, np.int64)
        inside, outside = order[start : start + band], np.delete(order, np.s_[start : start + band])
        owner[inside] = whole + _rounds(tokens[inside], short)
        owner[outside] = _rounds(tokens[outside], whole)
        if fits(owner, tokens, packs, budget):
            return owner
    return None


def exchanged(tokens: Ints, packs: int, budget: int) -> Ints:
    """Longest first, then rows are exchanged until packs keep the budget; no rule promises that they will."""
    dealt = Packs(longest_first(tokens, packs), tokens, tokens.astype(np.float64), packs, budget)
    repair(dealt)
    return dealt.owner()


def _rounds(falling: Ints, packs: int) -> Ints:
    """The pack of each of falling numbers, as many for each: in every round the largest goes to the least full."""
    loads, owner = np.zeros(packs, np.int64), np.empty(len(falling), np.int64)
    for begin in range(0, len(falling), max(packs, 1)):
        emptiest = np.argsort(loads, kind="stable")
        loads[emptiest] += falling[begin : begin + packs]
        owner[begin : begin + packs] = emptiest
    return owner


def by_classes(tokens: Ints, packs: int) -> Ints | None:
    """Rule 3: rows of two classes fill what the others leave; None where no two classes are certain to."""
    table = group_sizes(tokens, np.array([0, len(tokens)]))
    sums = sums_of_windows(table, np.zeros(1, np.int64), np.array([0, 1]))
    pairs = two_classes(sums, np.array([packs]))
    if not len(pairs):
        return None
    first, width = pairs[classes_above(sums, np.array([packs]), pairs)[0].argmin()].tolist()
    number = (bin_of(tokens) - table.first_bin - first) // width
    classes = [np.flatnonzero(number == i) for i in (0, 1)]
    rest = np.flatnonzero((number != 0) & (number != 1))
    owner = np.empty(len(tokens), np.int64)
    owner[rest] = longest_first(tokens[rest], packs)
    room = int(tokens.sum()) / packs - add_up(tokens[rest], owner[rest], packs)
    mean_l, mean_h = (float(tokens[rows].mean()) for rows in classes)
    num_rows = _whole(room / float(tokens[np.concatenate(classes)].mean()))
    num_high = _whole((room - num_rows * mean_l) / (mean_h - mean_l))
    for rows, counts in zip(classes, (num_rows - num_high, num_high), strict=True):
        if counts.min() < 0 or counts.sum() != len(rows):
            return None
        owner[rows[_steady(tokens[rows])]] = np.repeat(np.arange(packs), counts)
    return owner


def _whole(numbers: np.ndarray) -> Ints:
    """Numbers rounded up or down so that the sum of any first ones is off by at most a half."""
    running = np.rint(np.cumsum(numbers)).astype(np.int64)
    parts: Ints = np.diff(running, prepend=0)
    return parts


def _steady(sizes: Ints) -> Ints:
    """An order in which the sum of deviations from the mean stays within a range as wide as that of the sizes."""
    deviations = sizes * len(sizes) - sizes.sum()
    above, below = np.flatnonzero(deviations >= 0).tolist(), np.flatnonzero(deviations < 0).tolist()
    by_place, running, order = deviations.tolist(), 0, []
    while above or below:
        order.append((above if running <= 0 and above else below).pop())
        running += by_place[order[-1]]
    return np.array(order, np.int64)
