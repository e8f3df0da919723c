"""The plan: which rows make up which pack, at which position of the run. Integers only, a pure function.

A run is one stream of packs numbered 0, 1, 2, ... across epochs. In each epoch the row groups are shuffled with a seed
of that epoch and cut into *windows* of `window_groups`; the rows of a window are shuffled and packed to the token
budget. Every usable row is in exactly one pack of an epoch. Position p is a place in that stream: a window needs only
its own rows to be read, so starting anywhere costs one window.

Worked example: 5 row groups and `window_groups=2` give 3 windows an epoch; if they hold 4, 4 and 2 packs, epoch 1
begins at position 10, and position 13 is the last pack of the first window of epoch 1.

Packing is best fit with a few packs held open (an online form of best-fit bin packing, Johnson 1974): a row goes to the
open pack that it fills most. It loses about half a pack a window; planning takes about 2 s for a million rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from interlace.data.plan.mix import Mix

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What decides a plan besides the data. `shuffle=False` keeps the rows' order (for evaluation)."""

    seed: int
    token_budget: int
    global_batch: int
    lookahead: int
    window_groups: int
    shuffle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A unit of reading: window `index` of `epoch` holds `num_packs` packs from position `start` of the run."""

    epoch: int
    index: int
    start: int
    num_packs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of one split.

    Args:
        group_starts: int64 `[groups + 1]`, first row of each row group, then the number of rows.
        num_tokens: int32 `[N]`, tokens of each row over all fields; 0 for rows that can't be used.
        settings: see `PlanSettings`.
        mix: which rows each window draws, where several sources are mixed by weight; an epoch then has as many draws
            as there are usable rows, and packs hold draws, `row + N * pass` (see `rows_of`).
    """

    group_starts: NDArray[np.int64]
    num_tokens: NDArray[np.int32]
    settings: PlanSettings
    mix: Mix | None = None

    @property
    def num_windows(self) -> int:
        """Windows of an epoch."""
        if self.mix is not None:
            return ceil(np.count_nonzero(self.num_tokens) / self.mix.settings.window_rows)
        return ceil((len(self.group_starts) - 1) / self.settings.window_groups)

    def window_groups(self, epoch: int, index: int) -> NDArray[np.int64]:
        """Row groups of a window, in file order."""
        groups = np.arange(len(self.group_starts) - 1)
        if self.settings.shuffle:
            groups = np.random.default_rng((self.settings.seed, epoch)).permutation(groups)
        size = self.settings.window_groups
        return np.sort(groups[index * size : (index + 1) * size])

    def packs(self, epoch: int, index: int) -> list[Rows]:
        """The packs of a window, each the rows (of a mix: the draws) it holds in order."""
        if self.mix is not None:
            rows = self.mix.draws(epoch * self.num_windows + index)
        else:
            groups = self.window_groups(epoch, index)
            rows = np.concatenate([np.arange(self.group_starts[g], self.group_starts[g + 1]) for g in groups])
            rows = rows[self.num_tokens[rows] > 0]
        if self.settings.shuffle:
            rows = np.random.default_rng((self.settings.seed, epoch, index)).permutation(rows)
        tokens = self.num_tokens[self.rows_of(rows)]
        return _pack(rows, tokens, self.settings.token_budget, self.settings.lookahead)

    def rows_of(self, draws: Rows) -> Rows:
        """The manifest rows of the draws in a pack."""
        return draws % len(self.num_tokens)

    def windows(self) -> Iterator[Window]:
        """All windows of the endless stream, in order."""
        start, epoch = 0, 0
        while True:
            for index in range(self.num_windows):
                num_packs = len(self.packs(epoch, index))
                yield Window(epoch=epoch, index=index, start=start, num_packs=num_packs)
                start += num_packs
            epoch += 1

    def schedule(self, *, epochs: float | None = None, steps: int | None = None) -> "Schedule":
        """The windows of a run of so many epochs or steps.

        With `epochs` every row of them is in the run; the last step is filled up from the epoch after.
        """
        assert (epochs is None) != (steps is None)
        size = self.settings.global_batch
        stop = steps * size if steps is not None else None
        last = ceil(epochs * self.num_windows) if epochs is not None else 0
        windows: list[Window] = []
        for number, window in enumerate(self.windows()):
            if stop is None and number == last:
                stop = ceil(window.start / size) * size
            if stop is not None and window.start >= stop:
                break
            windows.append(window)
        assert stop is not None
        return Schedule(windows=tuple(windows), stop=stop, global_batch=size)

    def fill(self, schedule: "Schedule") -> float:
        """Share of pack capacity that real tokens take, over the first epoch of a schedule."""
        first = [w for w in schedule.windows if w.epoch == 0]
        tokens = sum(int(self.num_tokens[self.rows_of(p)].sum()) for w in first for p in self.packs(0, w.index))
        return tokens / (sum(w.num_packs for w in first) * self.settings.token_budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The windows of a run and its end: positions `0 .. stop - 1`, `stop` a multiple of `global_batch`."""

    windows: tuple[Window, ...]
    stop: int
    global_batch: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.stop // self.global_batch

    def since(self, position: int) -> tuple[Window, ...]:
        """The window that holds a position and those after it."""
        return tuple(w for w in self.windows if w.start + w.num_packs > position)


def _pack(rows: Rows, lengths: NDArray[np.int32], budget: int, lookahead: int) -> list[Rows]:
    """Best-fit packing in the given order with at most `lookahead` packs open."""
    packs: list[list[int]] = []
    open_rows: list[list[int]] = []
    room: list[int] = []
    for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
        best = -1
        for i, left in enumerate(room):
            if left >= length and (best < 0 or left < room[best]):
                best = i
        if best < 0:
            if len(room) == lookahead:
                full = room.index(min(room))
                packs.append(open_rows.pop(full))
                room.pop(full)
            open_rows.append([])
            room.append(budget)
            best = len(room) - 1
        open_rows[best].append(row)
        room[best] -= length
    return [np.array(p, np.int64) for p in [*packs, *open_rows]]
