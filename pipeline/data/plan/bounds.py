"""Numbers of packs that are certain to hold the rows of a window, from its sums: the rules that `certain` carries out.

`K` packs of `B` tokens; `T`, `N` are tokens and rows of a window, indexed by size.

1. **Longest first**, each row to the pack with the fewest tokens (Graham 1969, LPT). A row of `s` tokens finds no room
   only if all packs hold at least `B - s + 1`, of rows no smaller. At most `G` packs hold one of the `G` rows of `v`
   tokens and more, so `s` is safe if `T[s <= size < v] - s < (K - G) (B - s + 1)`, for any `v`. And the pack with the
   fewest rows has at most `j = floor((N[size >= s] - 1) / K)`, so `s` is safe if `j * largest + s <= B`. `K` is safe if
   every size that is present is, by either. So rows of one size fill all that can be filled, and others at least
   `1 - smallest / B` where tails are thin: enough where some rows are small.
2. **In rounds**, for rows that are alike but not small: each round gives every pack a row, the fullest the smallest.
   Then packs differ by no more than the rows of one round do: with loads ascending and rows descending, a difference
   `x_j - x_i >= 0` becomes `(x_j - x_i) - (y_i - y_j)`. Where `K` doesn't divide `N`, some packs are *short* by a row,
   and get a band of larger rows in exchange, which begins after a whole number of rounds of the others, so that rows of
   a round are neighbours in size.
3. **By two classes**, for rows without small ones, some of them large. Rows of a class `L` and of a class `H` somewhat
   larger are kept back, the others dealt longest first, which leaves pack `k` a room of `R_k` up to the mean load. `n`
   rows, `h` of `H`, take `n mean(L) + h g` where `g = mean(H) - mean(L)`: steps of `g`, much less than a row. `n_k` is
   `R_k / mean(L and H)`, rounded; then `h_k` takes what is missing, and lies between 0 and `n_k` if `R_k` is large
   enough. Both are rounded so that their running sums are right. Rows of a class are put in an order in which the sum
   of their deviations from its mean never leaves a range as wide as the class (Steinitz 1913, of one dimension), and
   each pack gets the next ones. So a pack is above the mean load by less than `g + width(L) + width(H)`.

What each is certain to fill of `B`, before rounding to whole packs (measured, 400,000 rows; captions log-normal):

    rows of                              B   rule 1   rule 2   rule 3
    20..70 tokens                    2,048   99.1 %   99.3 %   99.2 %
    40..70                           2,048   98.0 %   99.6 %   98.9 %
    40 + captions up to 400          2,048   98.0 %        -   99.3 %
    64 or 144, and 3..40             4,096   98.4 %   98.5 %   98.9 %
    256 + 10..60                     8,192   96.7 %   99.3 %   99.0 %
    196 + captions up to 1,500      16,384   98.7 %   91.4 %   99.6 %
    256 + captions up to 1,500       8,192   96.7 %        -   97.8 %
    100..200                         2,048   95.0 %   97.9 %   94.2 %
"""

import numpy as np
from numpy.typing import NDArray

from interlace.data.plan.sizes import Ints, Sums, from_top

Flags = NDArray[np.bool_]

WIDTHS = (1, 2, 3, 4, 6, 8, 12)
"""Bins of each of the two classes of rule 3 that are tried."""


def up(number: Ints, size: float | Ints) -> Ints:
    """`number / size`, rounded up."""
    return np.ceil(number / size).astype(np.int64)


def longest_first_needs(sums: Sums, budget: int) -> Ints:
    """Rule 1: the fewest packs for which every size is safe, `[W]`."""
    rows, tokens, sizes = from_top(sums.counts), from_top(sums.totals), sums.sizes
    room = np.maximum(budget - sizes + 1, 1)
    plain = (tokens[:, :-1] - sums.low) // room + 1
    apart = np.searchsorted(sums.low, room)  # first bin whose rows leave no room for this one
    giants = np.take_along_axis(rows, apart, axis=1)
    between = tokens[:, :-1] - np.take_along_axis(tokens, apart, axis=1)
    beside = giants + np.maximum(between - sums.low, 0) // room + 1
    beside = np.where(apart > np.arange(len(sums.low)), beside, plain)
    by_number = up(rows[:, :-1], np.maximum(budget - sizes, 0) // np.maximum(sums.largest[:, None], 1) + 1)
    needed = np.minimum(np.minimum(plain, beside), by_number)
    safe: Ints = np.where(sums.counts > 0, needed, 0).max(axis=1)
    return safe


def rounds_need(sums: Sums, packs: Ints, budget: int) -> Ints:
    """Rule 2: no more than `packs` where so many can be dealt in rounds, else how many might do, `[W]`.

    `m` rows make a long pack; `K2 = m K - N` packs are short, `K1 = K - K2` long. With packs of a kind within `spread`
    of each other, both kinds keep the budget if the short packs' tokens lie between `T - K1 (B - spread)` and
    `K2 (B - spread)`. The band of `K2 (m - 1)` rows that they get may be shifted by `K1` rows at a time, which changes
    its tokens by at most `K1` times the range of `K1` rows more than it has. So it is enough that the topmost band has
    as many, the lowest no more, and no shift leaps over what lies between.
    """
    height = up(sums.rows, packs)
    short = height * packs - sums.rows
    whole, band = packs - short, short * (height - 1)
    rows, tokens = from_top(sums.counts), from_top(sums.totals)
    level = budget - _range(sums, packs, rows)
    between = packs * level - sums.tokens
    enough = _topmost(sums, band, (rows, tokens)) >= sums.tokens - whole * level
    few = sums.tokens - _topmost(sums, sums.rows - band, (rows, tokens)) <= short * level
    no_leap = whole * _range(sums, band + whole, rows) <= between
    needed = up(sums.tokens, np.maximum(level, 1))
    return np.where((short == 0) | (enough & few & no_leap), needed, np.maximum(needed, packs + 1))


def rounds_may_fit(sums: Sums, packs: Ints, budget: int) -> Flags:
    """Whether the first round alone, of the largest rows, lets fewer than `packs` packs be dealt in rounds, `[W]`."""
    rows = from_top(sums.counts)
    last = _last_at_least(rows[:, :-1], np.minimum(packs, sums.rows)[:, None])[:, 0]
    return sums.tokens <= (packs - 1) * (budget - (sums.largest - sums.low[last]))


def _range(sums: Sums, number: Ints, rows: Ints) -> Ints:
    """The most by which sizes differ among so many neighbours in the order of sizes, `[W]`."""
    last = np.minimum(rows[:, :-1] + number[:, None] - 1, sums.rows[:, None])
    ranges = sums.sizes - sums.low[_last_at_least(rows[:, :-1], last)]
    most: Ints = np.where(sums.counts > 0, ranges, 0).max(axis=1)
    return most


def _topmost(sums: Sums, number: Ints, tops: tuple[Ints, Ints]) -> Ints:
    """The fewest tokens that the so many largest rows can have, `[W]`."""
    rows, tokens = tops
    found = _last_at_least(rows[:, :-1], number[:, None])
    above = np.take_along_axis(rows, found + 1, axis=1)
    least: Ints = np.take_along_axis(tokens, found + 1, axis=1) + (number[:, None] - above) * sums.low[found]
    return least[:, 0]


def _last_at_least(falling: Ints, wanted: Ints) -> Ints:
    """In each row of falling numbers the last place that holds at least each wanted number, which the first does."""
    size, windows = falling.shape[1], np.arange(len(falling))[:, None]
    shift = (int(falling.max(initial=0)) + 1) * windows
    at = np.searchsorted((falling[:, ::-1] + shift).ravel(), (wanted + shift).ravel()).reshape(wanted.shape)
    places: Ints = np.clip(size - 1 - (at - size * windows), 0, size - 1)
    return places


def two_classes(sums: Sums, packs: Ints) -> Ints:
    """Rule 3: pairs of classes that may do, `[classes, 2]`: the first bin of `L`, and bins of each, `H` following `L`.

    Of each width the one that is best for the sum of the windows, which are alike.
    """
    whole = Sums(
        rows=sums.rows.sum(keepdims=True),
        tokens=sums.tokens.sum(keepdims=True),
        largest=sums.largest.max(keepdims=True),
        low=sums.low,
        high=sums.high,
        counts=sums.counts.sum(axis=0, keepdims=True),
        totals=sums.totals.sum(axis=0, keepdims=True),
    )
    found = []
    for bins in WIDTHS:
        firsts = np.arange(len(sums.low) + 1 - 2 * bins)
        if len(firsts):
            errors = classes_above(whole, packs.sum(keepdims=True), np.stack([firsts, np.full_like(firsts, bins)], 1))
            found += [(int(firsts[errors[0].argmin()]), bins)] if np.isfinite(errors).any() else []
    return np.array(found, np.int64).reshape(-1, 2)


def classes_above(sums: Sums, packs: Ints, pairs: Ints) -> NDArray[np.float64]:
    """How far above their mean packs can be with each pair of classes, `[W, pairs]`; infinite where none is certain."""
    first, middle, end = pairs[:, 0], pairs.sum(axis=1), pairs[:, 0] + 2 * pairs[:, 1]
    rows, tokens = from_top(sums.counts), from_top(sums.totals)
    count_l, count_h = rows[:, first] - rows[:, middle], rows[:, middle] - rows[:, end]
    total_l, total_h = tokens[:, first] - tokens[:, middle], tokens[:, middle] - tokens[:, end]
    some = (count_l > 0) & (count_h > 0)
    mean_l, mean_h = total_l / np.maximum(count_l, 1), total_h / np.maximum(count_h, 1)
    share = count_h / np.maximum(count_l + count_h, 1)
    step = np.where(some, mean_h - mean_l, 0.0)
    mean = mean_l + share * step
    room = (sums.tokens / packs)[:, None] - _fullest(sums, packs, tokens, (first, end), total_l + total_h)
    # n differs from R / mean by less than 1, and may lie between R / mean(H) and R / mean(L)
    enough = (room * share * step >= mean * mean_l) & (room * (1 - share) * step >= mean * mean_h)
    width = np.minimum(sums.high[end - 1], sums.largest[:, None]) - sums.low[first] - 1
    return np.where(some & enough, step + width, np.inf)


def _fullest(sums: Sums, packs: Ints, tokens: Ints, ends: tuple[Ints, Ints], kept: Ints) -> NDArray[np.float64]:
    """The most that a pack of the rows outside two classes can have, `[W, pairs]`: when it gets a row of some bin."""
    after = (tokens[:, :-1] - sums.low) / packs[:, None] + sums.sizes
    after = np.where(sums.counts > 0, after, 0.0)
    above = np.maximum.accumulate(after[:, ::-1], axis=1)[:, ::-1]
    above, below = np.pad(above, ((0, 0), (0, 1))), np.pad(np.maximum.accumulate(after, axis=1), ((0, 0), (1, 0)))
    most: NDArray[np.float64] = np.maximum(above[:, ends[1]], below[:, ends[0]] - kept / packs[:, None])
    return most
