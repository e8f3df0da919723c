"""Brings packs that are above the budget below it, by exchanging rows with packs that have room."""

import numpy as np
from numpy.typing import NDArray

from interlace.data.plan.sizes import Ints, add_up

Floats = NDArray[np.float64]

PARTNERS = 12
"""Packs with most room that a pack above the budget may exchange rows with."""


def repair(owner: Ints, tokens: Ints, cost: Floats, packs: int, budget: int) -> bool:
    """Exchange rows of packs above the budget with rows of others until none is; whether that was reached.

    Args:
        owner: int64 `[N]`, the pack of each row; changed in place.
        tokens: int64 `[N]`.
        cost: float64 `[N]`.
        packs: how many there are.
        budget: most tokens of one.
    """
    room, costs = budget - add_up(tokens, owner, packs), np.zeros(packs)
    np.add.at(costs, owner, cost)
    for _ in range(4 * packs):
        full = int(room.argmin())
        if room[full] >= 0:
            return True
        for other in np.argsort(-room, kind="stable")[:PARTNERS].tolist():
            if room[other] <= 0 or not _exchange(owner, (tokens, cost), (room, costs), (full, other)):
                continue
            break
        else:
            return False
    return bool(room.min() >= 0)


def _exchange(owner: Ints, rows: tuple[Ints, Floats], packs: tuple[Ints, Floats], pair: tuple[int, int]) -> bool:
    """Give a row of a full pack to another, for one of its rows or none, so that what is above the budget gets less.

    Of exchanges that end it, the one is taken that leaves the costs most alike; else the one that ends most of it.
    """
    (tokens, cost), (room, costs), (full, other) = rows, packs, pair
    ours, theirs = np.flatnonzero(owner == full), np.flatnonzero(owner == other)
    moved = tokens[ours][:, None] - np.append(tokens[theirs], 0)
    moved_cost = cost[ours][:, None] - np.append(cost[theirs], 0.0)
    fits = (moved > 0) & (moved <= room[other])
    if not fits.any():
        return False
    ends = fits & (moved >= -room[full])
    if ends.any():
        uneven = np.abs(costs[full] - costs[other] - 2 * moved_cost)
        best = int(np.where(ends, uneven, np.inf).argmin())
    else:
        best = int(np.where(fits, moved, 0).argmax())
    give, take = divmod(best, moved.shape[1])
    owner[ours[give]] = other
    if take < len(theirs):
        owner[theirs[take]] = full
    for numbers, change in ((room, -moved[give, take]), (costs, moved_cost[give, take])):
        numbers[full] -= change
        numbers[other] += change
    return True
