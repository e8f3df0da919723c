"""The plan: which rows make up which pack, at which position of the run. A pure function.

A run is one stream of packs numbered 0, 1, 2, ... across epochs. In each epoch the row groups are shuffled with a seed
of that epoch and cut into *windows* of about `window_packs` packs. How many packs a window has follows from sums over
its row groups (`count`), so a schedule of many epochs looks at no row; whoever reads a window deals its rows into those
packs (`deal`), all of them equal in tokens and in work. Every usable row is in exactly one pack of an epoch. Position p
is a place in that stream: a window needs only its own rows to be read, so starting anywhere costs one window.

Worked example: an epoch of 3 windows with 4, 4 and 2 packs: epoch 1 begins at position 10, and position 13 is the last
pack of the first window of epoch 1.

Splits of few rows, and mixes of sources, are counted by dealing (`count_by_dealing`), which fills packs better.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from interlace.data.plan.certain import deal_by_tokens
from interlace.data.plan.count import EpochWindows, WindowSettings, count_by_dealing, wanted_packs, windows_of_epoch
from interlace.data.plan.deal import Dealing, deal
from interlace.data.plan.mix import Mix
from interlace.data.plan.sizes import GroupSizes, group_sizes

Rows = NDArray[np.int64]

PLAN = 2
"""Raised when the same data and settings give other packs: runs begun before can't go on."""
MOST_COMPARED = 2048
"""Packs that are dealt to say how unequal they are."""
LOOKED_AT = 100_000
"""Rows of a split up to which its windows are counted by dealing them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What decides a plan besides the data. `shuffle=False` keeps the order of row groups (for evaluation)."""

    seed: int
    token_budget: int
    global_batch: int
    window_packs: int
    shuffle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the rows of a row group take: `tokens` int64 `[n]`, 0 for rows that can't be used, and `cost` float64."""

    tokens: NDArray[np.int64]
    cost: NDArray[np.float64]


class Look(Protocol):
    """How the plan looks at the rows of a row group, where it deals them."""

    def __call__(self, group: int) -> Work:
        """Tokens and cost of each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRows:
    """Rows that are known already: a `Look` over `starts` int64 `[G + 1]` and the work of all rows."""

    starts: NDArray[np.int64]
    work: Work

    def __call__(self, group: int) -> Work:
        """Tokens and cost of the rows of a group."""
        rows = slice(int(self.starts[group]), int(self.starts[group + 1]))
        return Work(tokens=self.work.tokens[rows], cost=self.work.cost[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A unit of reading: window `index` of `epoch` holds `num_packs` packs from position `start` of the run."""

    epoch: int
    index: int
    start: int
    num_packs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The plan of one split.

    Args:
        group_starts: int64 `[groups + 1]`, first row of each row group, then the number of rows.
        sizes: sums over the usable rows of each row group.
        look: at the rows of a group.
        settings: see `PlanSettings`.
        mix: which rows each window draws, where several sources are mixed by weight; an epoch then has as many draws
            as there are usable rows, and packs hold draws, `row + N * pass` (see `rows_of`).
    """

    group_starts: NDArray[np.int64]
    sizes: GroupSizes
    look: Look
    settings: PlanSettings
    mix: Mix | None = None
    _cuts: dict[int, EpochWindows] = field(default_factory=dict, repr=False)

    @property
    def num_rows(self) -> int:
        """Rows of the split, those included that can't be used."""
        return int(self.group_starts[-1])

    @property
    def num_usable(self) -> int:
        """Rows that are in packs."""
        return int(self.sizes.rows.sum())

    @property
    def _mixed_windows(self) -> int:
        """Windows of an epoch of a mix."""
        assert self.mix is not None
        return ceil(self.num_usable / self.mix.settings.window_rows)

    def _cut(self, epoch: int) -> EpochWindows:
        """The windows of an epoch with the numbers of packs that sums are certain of."""
        if epoch not in self._cuts:
            while len(self._cuts) > 1:  # a reader is in one epoch, at most at the border of two
                self._cuts.pop(next(iter(self._cuts)))
            settings = WindowSettings(
                seed=self.settings.seed,
                token_budget=self.settings.token_budget,
                window_packs=self.settings.window_packs,
                shuffle=self.settings.shuffle,
            )
            self._cuts[epoch] = windows_of_epoch(self.sizes, settings, epoch)
        return self._cuts[epoch]

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """Packs of each window of an epoch, int64 `[windows]`; 0 for one without a usable row."""
        if self.mix is not None:
            return np.array([self._count_draws(epoch, index) for index in range(self._mixed_windows)], np.int64)
        cut = self._cut(epoch)
        if self.num_rows <= LOOKED_AT:
            cut = count_by_dealing(cut, self._known.work.tokens, self.group_starts, self.settings.token_budget)
        return cut.num_packs

    @cached_property
    def _known(self) -> "KnownRows":
        """All rows, of a split that is small enough."""
        if isinstance(self.look, KnownRows):
            return self.look
        return KnownRows(starts=self.group_starts, work=all_work(self.look, len(self.sizes.rows)))

    def _count_draws(self, epoch: int, index: int) -> int:
        """Packs of a window of a mix: the fewest that its draws are found to fit into."""
        tokens = self.rows(epoch, index)[1].tokens
        number = wanted_packs(int(tokens.sum()), self.settings.token_budget)
        while deal_by_tokens(tokens, number, self.settings.token_budget) is None:
            number += 1
        return number

    def packs(self, epoch: int, index: int, num_packs: int | None = None) -> list[Rows]:
        """The packs of a window, each the rows (of a mix: the draws) it holds in order.

        Args:
            epoch: of the window.
            index: of the window in its epoch.
            num_packs: as a schedule has it; counted anew where not given.
        """
        rows, work = self.rows(epoch, index)
        dealing = Dealing(
            num_packs=int(self.counts(epoch)[index]) if num_packs is None else num_packs,
            token_budget=self.settings.token_budget,
            seed=self.settings.seed,
            epoch=epoch,
            shuffle=self.settings.shuffle,
        )
        return deal(rows, work.tokens, work.cost, dealing) if len(rows) else []

    def rows(self, epoch: int, index: int) -> tuple[Rows, Work]:
        """The usable rows of a window, and what they take."""
        if self.mix is not None:
            draws = self.mix.draws(epoch * self._mixed_windows + index)
            return draws, self._work_of(draws)
        found = [(g, self.look(g)) for g in self._cut(epoch).groups_of(index).tolist()]
        rows = [self.group_starts[g] + np.flatnonzero(work.tokens) for g, work in found]
        tokens = [work.tokens[work.tokens > 0] for _, work in found]
        cost = [work.cost[work.tokens > 0] for _, work in found]
        return np.concatenate(rows), Work(tokens=np.concatenate(tokens), cost=np.concatenate(cost))

    def _work_of(self, draws: Rows) -> Work:
        """What draws of a mix take: its rows are all known."""
        assert isinstance(self.look, KnownRows)
        rows = self.rows_of(draws)
        return Work(tokens=self.look.work.tokens[rows], cost=self.look.work.cost[rows])

    def most_in_window(self, amounts: Rows) -> int:
        """The most that a window of the first epoch holds, where row groups hold these amounts (of bytes) each."""
        if self.mix is not None:  # rows from anywhere: as many as a window has, of the mean, and a row group passing by
            share = min(1.0, self.mix.settings.window_rows / max(1, self.num_rows))
            return ceil(int(amounts.sum()) * share) + int(amounts.max(initial=0))
        cut = self._cut(0)
        return int(np.add.reduceat(amounts[cut.groups], cut.starts[:-1]).max(initial=0)) if len(cut.groups) else 0

    def rows_of(self, draws: Rows) -> Rows:
        """The rows of the split of the draws in a pack."""
        return draws % self.num_rows

    def schedule(self, *, epochs: float | None = None, steps: int | None = None) -> "Schedule":
        """The windows of a run of so many epochs or steps.

        With `epochs` every row of them is in the run; the last step is filled up from the epoch after.
        """
        assert (epochs is None) != (steps is None)
        size = self.settings.global_batch
        stop = steps * size if steps is not None else None
        counts: list[NDArray[np.int64]] = []
        total = 0
        while stop is None or total < stop:
            found = self.counts(len(counts))
            if not found.sum():
                raise AssertionError("a split without a usable row has no packs")
            if stop is None and epochs is not None and epochs <= len(counts) + 1:
                last = ceil((epochs - len(counts)) * len(found) - 1e-9)
                stop = ceil((total + int(found[:last].sum())) / size) * size
            counts.append(found)
            total += int(found.sum())
        return Schedule(counts=tuple(counts), stop=stop, global_batch=size)

    def fill(self, schedule: "Schedule") -> float:
        """Share of pack capacity that real tokens take, over the first epoch of a schedule."""
        packs = int(schedule.counts[0].sum())
        tokens = int(self.sizes.tokens.sum())
        if self.mix is not None:
            windows = range(len(schedule.counts[0]))
            tokens = sum(int(self.rows(0, index)[1].tokens.sum()) for index in windows)
        return tokens / (packs * self.settings.token_budget)


def straggler_factor(plan: Plan, schedule: "Schedule", most_packs: int = MOST_COMPARED) -> float | None:
    """How long the slowest pack of a step takes over the mean, in FLOPs; the mean over the first steps of the run.

    Args:
        plan: of the training split.
        schedule: of the run.
        most_packs: that are dealt to find out.

    Returns:
        1.0 at best; None where a step is a single pack, or takes more packs than that.
    """
    size = schedule.global_batch
    if not 1 < size <= most_packs:
        return None
    costs: list[float] = []
    for window in schedule.windows:
        if len(costs) >= min(most_packs, schedule.stop):
            break
        rows, work = plan.rows(window.epoch, window.index)
        cost_of = dict(zip(rows.tolist(), work.cost.tolist(), strict=True))
        costs += [
            sum(map(cost_of.__getitem__, p.tolist())) for p in plan.packs(window.epoch, window.index, window.num_packs)
        ]
    steps = np.array(costs[: len(costs) // size * size]).reshape(-1, size)
    return float((steps.max(1) / steps.mean(1)).mean()) if len(steps) else None


def all_work(look: Look, groups: int) -> Work:
    """What all rows of so many row groups take."""
    found = [look(group) for group in range(groups)]
    return Work(tokens=np.concatenate([w.tokens for w in found]), cost=np.concatenate([w.cost for w in found]))


def plan_of_rows(work: Work, group_starts: NDArray[np.int64], settings: PlanSettings, mix: Mix | None = None) -> Plan:
    """The plan of rows that are known: of a mix, whose draws are single rows, and of tests."""
    return Plan(
        group_starts=group_starts,
        sizes=group_sizes(work.tokens, group_starts),
        look=KnownRows(starts=group_starts, work=work),
        settings=settings,
        mix=mix,
    )


class Windows(Sequence[Window]):
    """Windows of a schedule, made when they are asked for: a run may have millions."""

    def __init__(self, schedule: "Schedule", first: int, stop: int) -> None:
        self._schedule, self._first, self._stop = schedule, first, stop

    def __len__(self) -> int:
        return self._stop - self._first

    @overload
    def __getitem__(self, at: int) -> Window: ...

    @overload
    def __getitem__(self, at: slice) -> "Sequence[Window]": ...

    def __getitem__(self, at: int | slice) -> "Window | Sequence[Window]":
        """A window, or several by a slice."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return self._schedule.window(self._first + at % len(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Window]:
        return (self._schedule.window(number) for number in range(self._first, self._stop))


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """The windows of a run and its end.

    Args:
        counts: for each epoch the packs of its windows, int64 `[windows]`.
        stop: positions are `0 .. stop - 1`; a multiple of `global_batch`.
        global_batch: packs of a step.
    """

    counts: tuple[NDArray[np.int64], ...]
    stop: int
    global_batch: int
    _starts: NDArray[np.int64] = field(init=False, repr=False)
    _firsts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sum up: the first position of each window, then the end; the first window of each epoch, then how many."""
        every = np.concatenate([np.zeros(0, np.int64), *self.counts])
        object.__setattr__(self, "_starts", np.concatenate([[0], np.cumsum(every)]).astype(np.int64))
        firsts = np.concatenate([[0], np.cumsum([len(c) for c in self.counts])]).astype(np.int64)
        object.__setattr__(self, "_firsts", firsts)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.stop // self.global_batch

    @property
    def packs_an_epoch(self) -> int:
        """Packs of the first epoch, all its windows."""
        return int(self.counts[0].sum())

    @property
    def windows(self) -> Windows:
        """The windows of the run, in order, up to the one that holds its last pack."""
        return Windows(self, 0, int(np.searchsorted(self._starts[:-1], self.stop)))

    def window(self, number: int) -> Window:
        """The window of a number, counted over all epochs."""
        epoch = int(np.searchsorted(self._firsts, number, side="right")) - 1
        begin, end = int(self._starts[number]), int(self._starts[number + 1])
        return Window(epoch=epoch, index=number - int(self._firsts[epoch]), start=begin, num_packs=end - begin)

    def since(self, position: int) -> Windows:
        """The window that holds a position and those after it."""
        first = int(np.searchsorted(self._starts[1:], position, side="right"))
        return Windows(self, first, max(first, len(self.windows)))
