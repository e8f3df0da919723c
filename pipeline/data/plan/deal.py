"""Deals the rows of one window into packs of equal work: `deal(rows, tokens, cost, dealing) -> packs`.

Work is both tokens and cost (what a row takes in FLOPs: `contract.flops`), each over its mean of a pack. Rows go
longest first to the pack whose larger share of the two is least after it (Graham 1969, LPT, for two quantities): by a
heap of shares so far, while rows are large against what is left, and the last `EXACT` rows of each pack by trying all
packs. A random factor on the order makes the packs of an epoch unlike those of the next.

The budget of tokens is hard. Where rows dealt by both quantities don't fit into the number of packs that `count` found,
rows are exchanged between packs (`exchange`), and where that isn't enough they are dealt by tokens alone (`certain`).
Packs of few rows also exchange rows until their costs are even. All in all 2 µs a row.

Everything is drawn from (seed, epoch, row) by a hash and computed by operations that IEEE 754 rounds exactly, so that
each process finds the same packs whatever its CPU, and in whatever order it was given the rows.
"""

import heapq
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from interlace.data.plan.certain import deal_by_tokens, fits
from interlace.data.plan.exchange import Packs, even, repair
from interlace.data.plan.sizes import Ints, add_up

Floats = NDArray[np.float64]

EXACT = 20
"""Rows of a pack, the last and smallest, that are dealt by trying all packs: 4 µs a row, 0.7 by the heap."""
FEW = 60
"""Rows of a pack up to which costs are evened out by exchanges: each row is a large part of it."""
BLOCK = 256
"""Packs that are tried at once; more are split into blocks of about so many, with even shares of packs and rows."""
_STEP = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealing:
    """How a window is dealt.

    Args:
        num_packs: as `count.count_packs` has it.
        token_budget: most tokens of a pack.
        seed, epoch: what the order is drawn from.
        jitter: most by which the logarithm of a row's size is changed in the order.
        shuffle: False deals by size alone and keeps rows of a pack in file order (for evaluation).
    """

    num_packs: int
    token_budget: int
    seed: int = 0
    epoch: int = 0
    jitter: float = 0.2
    shuffle: bool = True


def draw(rows: Ints, *key: int) -> Floats:
    """A number of 0 <= u < 1 for each row, from the row and the key alone (SplitMix64; Steele et al. 2014)."""
    state = 0
    for part in key:
        state = _mix_int((state + (part & _WORD) + _STEP) & _WORD)
    words = rows.astype(np.uint64) * np.uint64(_STEP) + np.uint64(state)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    words = (words ^ (words >> np.uint64(31))) >> np.uint64(11)
    return words.astype(np.float64) / (1 << 53)


def _mix_int(word: int) -> int:
    """One word of SplitMix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = ((word ^ (word >> shift)) * factor) & _WORD
    return word ^ (word >> 31)


def deal(rows: Ints, tokens: Ints, cost: Floats, dealing: Dealing) -> list[Ints]:
    """The packs of a window: each row in exactly one, none above the budget.

    Args:
        rows: int64 `[N]`, numbers of the usable rows, all different, in any order.
        tokens: int64 `[N]`, at least 1.
        cost: float64 `[N]`, what each row takes, in any unit; 0 allowed.
        dealing: see `Dealing`.

    Returns:
        `num_packs` packs, the rows of each in the order in which it holds them.
    """
    order = np.argsort(rows)
    rows, tokens, cost = rows[order], tokens[order].astype(np.int64), cost[order].astype(np.float64)
    owner = _owners(rows, tokens, cost, dealing)
    return _laid_out(rows, owner, dealing)


def _owners(rows: Ints, tokens: Ints, cost: Floats, dealing: Dealing) -> Ints:
    """The pack of each row."""
    packs, budget = dealing.num_packs, dealing.token_budget
    owner = _by_both(tokens, cost, _order(rows, tokens, cost, dealing), dealing)
    few = len(tokens) <= FEW * packs
    if few or not fits(owner, tokens, packs, budget):
        dealt = Packs(owner, tokens, cost, packs, budget)
        if repair(dealt) and few:
            even(dealt)
        owner = dealt.owner()
    filled = np.bincount(owner, minlength=packs).all()  # rows without cost may leave a pack empty
    if filled and fits(owner, tokens, packs, budget):
        return owner
    by_tokens = deal_by_tokens(tokens, packs, budget)
    assert by_tokens is not None, f"{len(tokens)} rows don't fit into {packs} packs of {budget} tokens"
    return by_tokens


def _order(rows: Ints, tokens: Ints, cost: Floats, dealing: Dealing) -> Ints:
    """Places of the rows, the largest first by the larger of both shares, times the row's factor."""
    shares = np.maximum(tokens / _mean(tokens), cost / _mean(cost))
    if dealing.shuffle:
        x = dealing.jitter * (draw(rows, dealing.seed, dealing.epoch, 0) - 0.5)
        shares = shares * ((1 + x) / (1 - x))  # exp(2 x) to a thousandth; `exp` itself is not the same on each CPU
    return np.argsort(-shares, kind="stable")


def _mean(numbers: Ints | Floats) -> float:
    """The mean, exactly rounded; 1 where there is nothing."""
    return fsum(numbers.tolist()) / max(len(numbers), 1) or 1.0


def _by_both(tokens: Ints, cost: Floats, order: Ints, dealing: Dealing) -> Ints:
    """Dealt by both shares; rows that fit nowhere go where most room is, above the budget."""
    packs, count = dealing.num_packs, len(tokens)
    share_t: Floats = tokens.astype(np.float64) * (packs / (_mean(tokens) * max(count, 1)))
    share_c: Floats = cost * (packs / (_mean(cost) * max(count, 1)))
    owner = np.zeros(count, np.int64)
    first = max(0, count - EXACT * packs)
    loads_t, loads_c = _by_heap(owner, order[:first], (share_t, share_c), packs)
    room = dealing.token_budget - add_up(tokens[order[:first]], owner[order[:first]], packs)
    emptiest, blocks = np.argsort(np.maximum(loads_t, loads_c), kind="stable"), max(1, round(packs / BLOCK))
    for block in range(blocks):
        rows, some = order[first:][block::blocks], emptiest[block::blocks]
        taken = _by_trial((tokens[rows], share_t[rows], share_c[rows]), (room[some], loads_t[some], loads_c[some]))
        owner[rows] = some[taken]
    return owner


def _by_heap(owner: Ints, order: Ints, shares: tuple[Floats, Floats], packs: int) -> tuple[Floats, Floats]:
    """Each row to the pack whose larger share so far is least; both shares of the packs."""
    heap = [(0.0, pack) for pack in range(packs)]
    loads_t, loads_c, taken = [0.0] * packs, [0.0] * packs, []
    for t, c in zip(shares[0][order].tolist(), shares[1][order].tolist(), strict=True):
        pack = heap[0][1]
        t += loads_t[pack]
        c += loads_c[pack]
        loads_t[pack], loads_c[pack] = t, c
        heapq.heapreplace(heap, (t if t > c else c, pack))
        taken.append(pack)
    owner[order] = taken
    return np.array(loads_t), np.array(loads_c)


def _by_trial(rows: tuple[Ints, Floats, Floats], packs: tuple[Ints, Floats, Floats]) -> Ints:
    """The pack of each row: that whose larger share is least with it, of those that have room."""
    room, loads_t, loads_c = packs
    after_t, after_c = np.empty_like(loads_t), np.empty_like(loads_c)
    taken = []
    for size, t, c in zip(*(column.tolist() for column in rows), strict=True):
        np.add(loads_t, t, out=after_t)
        np.add(loads_c, c, out=after_c)
        np.maximum(after_t, after_c, out=after_t)
        pack = int(after_t.argmin())
        if room[pack] < size:
            fits = room >= size
            pack = int(np.where(fits, after_t, np.inf).argmin() if fits.any() else room.argmax())
        loads_t[pack] += t
        loads_c[pack] += c
        room[pack] -= size
        taken.append(pack)
    return np.array(taken, np.int64)


def _laid_out(rows: Ints, owner: Ints, dealing: Dealing) -> list[Ints]:
    """Packs in the order of their smallest rows, and rows in file order; both shuffled if rows are."""
    packs = dealing.num_packs
    lowest = np.full(packs, np.iinfo(np.int64).max)
    np.minimum.at(lowest, owner, rows)
    if dealing.shuffle:
        place = draw(rows, dealing.seed, dealing.epoch, 1)
        of_pack = draw(lowest, dealing.seed, dealing.epoch, 2)
    else:
        place, of_pack = rows.astype(np.float64), lowest.astype(np.float64)
    order = np.lexsort((rows, place, owner))
    ends = np.cumsum(np.bincount(owner, minlength=packs))
    parts = np.split(rows[order], ends[:-1]) if packs else []
    return [parts[pack] for pack in np.lexsort((lowest, of_pack)).tolist()]
