"""Exchanges rows of packs: until none is above the budget (`repair`), until costs are even (`even`)."""

from math import fsum

import numpy as np
from numpy.typing import NDArray

from interlace.data.plan.sizes import Ints, add_up

Floats = NDArray[np.float64]

PARTNERS = 12
"""Packs that are tried first as partners of an exchange: those with most room, or of least cost."""
EVEN = 0.002
"""Costs are even if none is more than this share above the mean."""
TRIES = 8
"""Pairs of packs that are tried to even costs, for each pack there is."""
LEAST = 0.02
"""An exchange that evens costs must move at least this share of the difference of two packs, and leave as much."""


class Packs:
    """Packs whose rows may be exchanged.

    Args:
        owner: int64 `[N]`, the pack of each row; not changed.
        tokens: int64 `[N]`.
        cost: float64 `[N]`.
        packs: how many there are.
        budget: most tokens of one.

    Attributes:
        members: places of each pack's rows.
        room: int64 `[packs]`, tokens up to the budget; negative above it.
        costs: float64 `[packs]`.
    """

    def __init__(self, owner: Ints, tokens: Ints, cost: Floats, packs: int, budget: int) -> None:
        self.tokens, self.cost = tokens, cost
        ends = np.cumsum(np.bincount(owner, minlength=packs))
        self.members: list[Ints] = np.split(np.argsort(owner, kind="stable"), ends[:-1])
        self.room: Ints = budget - add_up(tokens, owner, packs)
        self.costs: Floats = np.zeros(packs)
        np.add.at(self.costs, owner, cost)

    def owner(self) -> Ints:
        """The pack of each row."""
        owner = np.empty(len(self.tokens), np.int64)
        for pack, rows in enumerate(self.members):
            owner[rows] = pack
        return owner

    def differences(self, giver: int, taker: int) -> tuple[Ints, Floats]:
        """Tokens and cost that a row of one pack has more than one of another or, in the last column, than nothing."""
        ours, theirs = self.members[giver], self.members[taker]
        tokens: Ints = self.tokens[ours][:, None] - np.append(self.tokens[theirs], 0)
        cost: Floats = self.cost[ours][:, None] - np.append(self.cost[theirs], 0.0)
        return tokens, cost

    def exchange(self, giver: int, taker: int, give: int, take: int) -> None:
        """Give a member for a member of the other or, past its end, for none."""
        ours, theirs = self.members[giver], self.members[taker]
        given, taken = ours[give : give + 1], theirs[take : take + 1]
        self.members[giver] = np.concatenate([ours[:give], ours[give + 1 :], taken])
        self.members[taker] = np.concatenate([theirs[:take], theirs[take + 1 :], given])
        tokens = int(self.tokens[given].sum() - self.tokens[taken].sum())
        cost = float(self.cost[given].sum() - self.cost[taken].sum())
        self.room[giver] += tokens
        self.room[taker] -= tokens
        self.costs[giver] -= cost
        self.costs[taker] += cost


def repair(packs: Packs) -> bool:
    """Exchange rows of packs above the budget with rows of others until none is; whether that was reached."""
    for _ in range(4 * len(packs.room)):
        full = int(packs.room.argmin())
        if packs.room[full] >= 0:
            return True
        others = np.argsort(-packs.room, kind="stable")[:PARTNERS].tolist()
        if not any(packs.room[other] > 0 and _relieve(packs, full, other) for other in others):
            return False
    return bool(packs.room.min(initial=0) >= 0)


def _relieve(packs: Packs, full: int, other: int) -> bool:
    """Make what a pack is above the budget less; whether there was an exchange that does.

    Of exchanges that end it, the one is taken that leaves the costs most alike; else the one that ends most of it.
    """
    moved, moved_cost = packs.differences(full, other)
    fits = (moved > 0) & (moved <= packs.room[other])
    if not fits.any():
        return False
    ends = fits & (moved >= -packs.room[full])
    if ends.any():
        uneven = np.abs(packs.costs[full] - packs.costs[other] - 2 * moved_cost)
        best = int(np.where(ends, uneven, np.inf).argmin())
    else:
        best = int(np.where(fits, moved, 0).argmax())
    packs.exchange(full, other, *divmod(best, moved.shape[1]))
    return True


def even(packs: Packs) -> None:
    """Exchange rows so that the packs that cost most cost less, all within the budget.

    For packs of few rows, whose costs dealing leaves 2 to 4 % apart; trying a partner takes 40 µs for 40 rows.
    """
    enough = (1 + EVEN) * fsum(packs.cost.tolist()) / max(len(packs.costs), 1)
    left = TRIES * len(packs.costs)
    while left > 0:
        dear = int(packs.costs.argmax())
        if packs.costs[dear] <= enough or len(packs.members[dear]) < 2:
            return
        for other in np.argsort(packs.costs, kind="stable")[:left].tolist():
            left -= 1
            if _lighten(packs, dear, other):
                break
        else:
            return


def _lighten(packs: Packs, dear: int, other: int) -> bool:
    """The exchange after which the dearer of two packs costs least, if it then costs less than the dearer did."""
    gap = packs.costs[dear] - packs.costs[other]
    if gap <= 0:
        return False
    moved, moved_cost = packs.differences(dear, other)
    fits = (moved <= packs.room[other]) & (-moved <= packs.room[dear])
    left = np.where(fits, np.minimum(moved_cost, gap - moved_cost), 0.0)
    best = int(left.argmax())
    if left.flat[best] <= LEAST * gap:
        return False
    packs.exchange(dear, other, *divmod(best, moved.shape[1]))
    return True
