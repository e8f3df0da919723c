"""Laws of equal packs: numbers from sums alone, every row once, never above the budget, and equal work."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlace.contract.errors import DataError
from interlace.data.plan.bounds import classes_above, longest_first_needs, rounds_need, two_classes
from interlace.data.plan.certain import by_classes, deal_by_tokens, fits, in_rounds, longest_first
from interlace.data.plan.count import EpochWindows, WindowSettings, count_by_dealing, windows_of_epoch
from interlace.data.plan.deal import Dealing, deal, draw
from interlace.data.plan.exchange import Packs, even, repair
from interlace.data.plan.sizes import Sums, bin_of, group_sizes, lowest_of, sums_of_windows

BUDGET = 16_384
Sizes = Callable[[int, int, np.random.Generator], np.ndarray]

SHAPES: dict[str, Sizes] = {
    "one giant": lambda n, b, rng: np.where(np.arange(n) == n // 2, b, rng.integers(1, max(2, b // 50), n)),
    "all equal": lambda n, b, rng: np.full(n, rng.integers(1, b + 1)),
    "all giants": lambda n, b, rng: rng.integers(int(0.4 * b), b + 1, n),
    "empty": lambda n, b, rng: np.zeros(n, np.int64),
    "one row": lambda n, b, rng: np.where(np.arange(n) == n // 3, rng.integers(1, b + 1), 0),
    "two sizes": lambda n, b, rng: rng.choice(rng.integers(1, b + 1, 2), n),
    "above a half": lambda n, b, rng: rng.integers(b // 2 + 1, b // 2 + 3, n),
    "above a third": lambda n, b, rng: rng.integers(b // 3 + 1, b // 3 + 3, n),
    "geometric": lambda n, b, rng: rng.geometric(min(1.0, 20 / b), n),
    "pictures and captions": lambda n, b, rng: b // 60 + 1 + rng.lognormal(np.log(b / 350), 0.9, n).astype(int),
    "alike": lambda n, b, rng: rng.integers(b // 30 + 1, b // 20 + 2, n),
    "tiny": lambda n, b, rng: rng.integers(0, 3, n),
}
"""Tokens of `n` rows for a budget `b`, 0 for unusable ones: absurd distributions and usual ones."""


def draw_sizes(shape: str, count: int, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens of so many rows, none above the budget."""
    return np.minimum(SHAPES[shape](count, budget, rng), budget).astype(np.int64)


def rows_of(windows: EpochWindows, starts: np.ndarray, tokens: np.ndarray, index: int) -> np.ndarray:
    parts = [np.arange(starts[g], starts[g + 1]) for g in windows.groups_of(index)]
    rows = np.concatenate(parts)
    return rows[tokens[rows] > 0]


def sums_of(tokens: np.ndarray) -> Sums:
    """The sums of one window of these rows."""
    return sums_of_windows(group_sizes(tokens, np.array([0, len(tokens)])), np.zeros(1, np.int64), np.array([0, 1]))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)), st.integers(1, 900), st.sampled_from((16, 100, 2048, BUDGET)), st.integers(0, 99)
)
@example("one giant", 900, 2048, 0)
@example("pictures and captions", 900, 8192, 0)
def test_every_row_is_in_one_pack_and_none_is_above_the_budget(shape: str, count: int, budget: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = draw_sizes(shape, count, budget, rng)
    starts = np.unique(np.append(rng.integers(0, count, 12), (0, count)))
    cost = tokens * rng.choice([1.0, 3.0, 40.0], count) + tokens.astype(float) ** 2
    windows = windows_of_epoch(group_sizes(tokens, starts), WindowSettings(seed=seed, token_budget=budget), 0)
    seen = []
    for index, num_packs in enumerate(windows.num_packs.tolist()):
        rows = rows_of(windows, starts, tokens, index)
        dealing = Dealing(num_packs=num_packs, token_budget=budget, seed=seed)
        packs = deal(rows, tokens[rows], cost[rows], dealing)
        assert len(packs) == num_packs
        assert num_packs >= -(-tokens[rows].sum() // budget)
        assert all(0 < tokens[pack].sum() <= budget for pack in packs)
        by_tokens = deal_by_tokens(tokens[rows], num_packs, budget)
        assert by_tokens is not None
        assert fits(by_tokens, tokens[rows], num_packs, budget)
        shuffled = rng.permutation(len(rows))
        again = deal(rows[shuffled], tokens[rows[shuffled]], cost[rows[shuffled]], dealing)
        assert [p.tolist() for p in again] == [p.tolist() for p in packs]
        seen += [row for pack in packs for row in pack.tolist()]
    assert sorted(seen) == np.flatnonzero(tokens).tolist()
    assert sorted(windows.groups.tolist()) == list(range(len(starts) - 1))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 600), st.sampled_from((64, 2048, BUDGET)), st.integers(0, 99))
def test_each_rule_keeps_the_budget_wherever_it_says_so(shape: str, count: int, budget: int, seed: int) -> None:
    tokens = draw_sizes(shape, count, budget, np.random.default_rng(seed))
    tokens = tokens[tokens > 0]
    if not len(tokens):
        return
    sums = sums_of(tokens)
    first = int(longest_first_needs(sums, budget)[0])
    fewest = -(-int(tokens.sum()) // budget)
    assert fewest <= first <= len(tokens)
    assert fits(longest_first(tokens, first), tokens, first, budget)
    for packs in range(fewest, min(first, fewest + 20) + 1):
        counted = np.array([packs])
        if rounds_need(sums, counted, budget)[0] <= packs:
            owner = in_rounds(tokens, packs, budget)
            assert owner is not None
            assert fits(owner, tokens, packs, budget)
        pairs = two_classes(sums, counted)
        if len(pairs) and tokens.sum() / packs + classes_above(sums, counted, pairs).min() <= budget:
            owner = by_classes(tokens, packs)
            assert owner is not None
            assert fits(owner, tokens, packs, budget)


@pytest.mark.parametrize(("shape", "certain"), [("alike", "rounds"), ("pictures and captions", "classes")])
def test_rules_are_certain_of_fewer_packs_than_longest_first_needs(shape: str, certain: str) -> None:
    """And some of those can't be dealt longest first: the rules are needed."""
    found: set[str] = set()
    longest_first_fails = 0
    for seed in range(12):
        tokens = draw_sizes(shape, 12_000, BUDGET, np.random.default_rng(seed))
        sums, packs = sums_of(tokens), np.array([-(-int(tokens.sum()) // int(0.99 * BUDGET))])
        assert longest_first_needs(sums, BUDGET)[0] > packs[0]
        found |= {"rounds"} if rounds_need(sums, packs, BUDGET)[0] <= packs[0] else set()
        above = classes_above(sums, packs, two_classes(sums, packs)).min(initial=np.inf)
        found |= {"classes"} if tokens.sum() / packs[0] + above <= BUDGET else set()
        longest_first_fails += not fits(longest_first(tokens, int(packs[0])), tokens, int(packs[0]), BUDGET)
    assert certain in found
    assert longest_first_fails > 0


def test_exchanges_bring_packs_below_the_budget() -> None:
    rng = np.random.default_rng(0)
    tokens, packs = draw_sizes("alike", 3000, 2048, rng), 134
    owner = rng.permutation(np.arange(3000) % packs)
    budget = int(tokens.sum() / packs * 1.01)
    assert not fits(owner, tokens, packs, budget)
    dealt = Packs(owner, tokens, tokens.astype(float), packs, budget)
    assert repair(dealt)
    assert fits(dealt.owner(), tokens, packs, budget)
    assert 0 < (dealt.owner() != owner).mean() < 0.5


def test_exchanges_make_costs_even_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    tokens, packs = draw_sizes("alike", 3000, 2048, rng), 140
    cost = tokens * rng.choice([1.0, 2.0], 3000)
    dealt = Packs(longest_first(tokens, packs), tokens, cost, packs, 2048)
    before = dealt.costs.max() / dealt.costs.mean()
    even(dealt)
    found = np.bincount(dealt.owner(), cost, packs)
    assert found == pytest.approx(dealt.costs)
    assert fits(dealt.owner(), tokens, packs, 2048)
    assert found.max() / found.mean() < 1.003 < 1.1 < before
    assert sorted(np.concatenate(dealt.members).tolist()) == list(range(3000))


def test_packs_that_only_a_rule_can_deal_are_dealt_by_it() -> None:
    """Two pictures of 50 and one of 51 fill a pack of 151; dealt by cost first, one is left over that fits nowhere."""
    tokens = np.array([50, 50, 51] * 20)
    cost = np.where(tokens == 51, 0.0, np.arange(60) % 7 * 1e3)
    for seed in range(20):
        packs = deal(np.arange(60), tokens, cost, Dealing(num_packs=20, token_budget=151, seed=seed))
        assert [int(tokens[pack].sum()) for pack in packs] == [151] * 20


@pytest.mark.parametrize("size", [1, 31, 41, 257, 5000, 8192, 8193, 16_384])
def test_rows_of_one_size_fill_all_that_can_be_filled(size: int) -> None:
    each = BUDGET // size
    tokens = np.full(each * 40, size)
    windows = windows_of_epoch(group_sizes(tokens, np.array([0, len(tokens)])), WINDOWS, 0)
    assert windows.num_packs.tolist() == [40]


WINDOWS = WindowSettings(seed=3, token_budget=BUDGET)


@given(st.lists(st.integers(1, 2**24), min_size=1, max_size=50))
def test_a_size_lies_in_its_bin_and_bins_are_narrow(sizes: list[int]) -> None:
    numbers = np.array(sizes)
    bins = bin_of(numbers)
    low, end = lowest_of(bins), lowest_of(bins + 1)
    assert (low <= numbers).all()
    assert (numbers < end).all()
    assert (end - low <= np.maximum(1, low / 16)).all()


def test_sums_of_windows_are_those_of_their_rows() -> None:
    rng = np.random.default_rng(0)
    tokens = draw_sizes("geometric", 5000, BUDGET, rng) * rng.integers(0, 2, 5000)
    starts = np.unique(np.append(rng.integers(0, 5000, 40), (0, 2, 2, 5000)))
    groups = rng.permutation(len(starts) - 1)
    ends = np.array([0, 3, 4, 20, len(groups)])
    sums = sums_of_windows(group_sizes(tokens, starts), groups, ends)
    for window, (a, b) in enumerate(pairwise(ends.tolist())):
        rows = np.concatenate([tokens[starts[g] : starts[g + 1]] for g in groups[a:b]])
        rows = rows[rows > 0]
        assert (sums.rows[window], sums.tokens[window], sums.largest[window]) == (len(rows), rows.sum(), rows.max())
        inside = (rows[:, None] >= sums.low) & (rows[:, None] <= sums.high)
        assert sums.counts[window].tolist() == inside.sum(axis=0).tolist()
        assert sums.totals[window].tolist() == (inside * rows[:, None]).sum(axis=0).tolist()
    assert len(sums.low) > 100


# the three mixes of rows and models that the design was simulated with


def draw_mix(count: int) -> tuple[np.ndarray, ...]:
    """Tokens of pictures of four sizes, sounds and texts with heavy tails, some missing."""
    rng = np.random.default_rng(0)
    image = np.where(rng.random(count) < 0.85, rng.choice([64, 144, 256, 576], count, p=[0.2, 0.3, 0.3, 0.2]), 0)
    sound = np.minimum(rng.lognormal(5, 0.8, count).astype(int) + 10, 3000)
    audio = np.where(rng.random(count) < 0.5, sound, 0)
    words = np.minimum(rng.lognormal(3.8, 0.9, count).astype(int) + 4, 1500)
    return image, audio, np.where(rng.random(count) < 0.9, words, 0)


def work_of(fields: tuple[np.ndarray, ...], layers: tuple[int, ...], joint: int) -> np.ndarray:
    """FLOPs of each row in a model of width 1,024."""
    width = 1024
    parts = [*zip(fields, layers, strict=True), (sum(fields), joint)]
    return sum(n * (24.0 * width**2 * t + 4.0 * width * t.astype(float) ** 2) for t, n in parts)


@pytest.mark.parametrize(
    ("layers", "joint"), [((0, 0, 0), 24), ((24, 12, 6), 6), ((32, 4, 0), 4)], ids=["early", "unlike", "pictures"]
)
def test_packs_are_full_and_their_work_is_equal(layers: tuple[int, ...], joint: int) -> None:
    """The slowest of 64 and of 256 ranks takes at most 1 % more than the mean; packs equal in tokens: 7 to 19 %."""
    fields = draw_mix(100_000)
    tokens, work = sum(fields), work_of(fields, layers, joint)
    starts = np.arange(0, 100_001, 500)
    settings = WindowSettings(seed=1, token_budget=BUDGET, window_packs=250)
    windows = windows_of_epoch(group_sizes(tokens, starts), settings, 0)
    packs = []
    for index, num_packs in enumerate(windows.num_packs.tolist()):
        rows = rows_of(windows, starts, tokens, index)
        packs += deal(rows, tokens[rows], work[rows], Dealing(num_packs=num_packs, token_budget=BUDGET, seed=1))
    sizes, costs = (np.array([column[pack].sum() for pack in packs]) for column in (tokens, work))
    assert sizes.max() <= BUDGET
    assert sizes.mean() >= 0.985 * BUDGET
    for ranks in (64, 256):
        steps = costs[: len(costs) // ranks * ranks].reshape(-1, ranks)
        assert (steps.max(axis=1) / steps.mean(axis=1)).mean() <= 1.01
    assert len(packs) > 2000


@pytest.mark.parametrize(
    ("sizes", "budget", "fill"),
    [
        (lambda rng: rng.integers(20, 71, 20_000), 2048, 0.988),
        (lambda rng: rng.integers(40, 71, 20_000), 2048, 0.988),
        (lambda rng: 40 + np.minimum(rng.lognormal(2.5, 0.8, 20_000), 400).astype(int), 2048, 0.986),
        (lambda rng: 256 + rng.integers(10, 61, 20_000), 8192, 0.986),
        (lambda rng: 196 + np.minimum(rng.lognormal(3.8, 0.9, 20_000), 1500).astype(int), BUDGET, 0.99),
    ],
    ids=["texts", "no small ones", "no small ones, large ones", "pictures and names", "pictures and captions"],
)
def test_packs_of_usual_rows_are_full(sizes, budget: int, fill: float) -> None:
    tokens = sizes(np.random.default_rng(0))
    table = group_sizes(tokens, np.arange(0, len(tokens) + 1, 250))
    windows = windows_of_epoch(table, WindowSettings(seed=0, token_budget=budget), 0)
    assert tokens.sum() / windows.num_packs.sum() >= fill * budget
    assert 50 <= windows.num_packs.min() <= windows.num_packs.max() <= 150


@pytest.mark.parametrize(("low", "high", "budget"), [(26, 60, 512), (22, 30, 512), (3, 30, 512), (39, 108, 1024)])
def test_small_splits_are_counted_by_dealing_and_dealt_so_in_every_epoch(low: int, high: int, budget: int) -> None:
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random(6000) < 0.95, rng.integers((low + high) // 2, high, 6000), low)
    starts = np.arange(0, 6001, 100)
    for epoch in range(3):
        settings = WindowSettings(seed=5, token_budget=budget)
        windows = windows_of_epoch(group_sizes(tokens, starts), settings, epoch)
        counted = count_by_dealing(windows, tokens, starts, budget)
        assert (counted.num_packs <= windows.num_packs).all()
        assert tokens.sum() / counted.num_packs.sum() >= 0.98 * budget
        for index, num_packs in enumerate(counted.num_packs.tolist()):
            rows = rows_of(counted, starts, tokens, index)
            dealing = Dealing(num_packs=num_packs, token_budget=budget, seed=5, epoch=epoch)
            packs = deal(rows, tokens[rows], tokens[rows] * 2.0, dealing)
            assert max(int(tokens[pack].sum()) for pack in packs) <= budget
            assert sorted(np.concatenate(packs).tolist()) == sorted(rows.tolist())


def test_windows_are_even_and_end_where_rounding_loses_little() -> None:
    tokens = sum(draw_mix(100_000))
    starts = np.arange(0, 100_001, 100)
    windows = windows_of_epoch(group_sizes(tokens, starts), WINDOWS, 0)
    sums = np.add.reduceat(np.add.reduceat(tokens, starts[:-1])[windows.groups], windows.starts[:-1])
    lost = windows.num_packs - sums / (0.99 * BUDGET)
    assert lost.mean() < 0.25
    assert windows.num_packs.max() < 1.3 * windows.num_packs.min()
    assert len(lost) > 20


def test_windows_are_a_pure_function_and_epochs_differ() -> None:
    tokens = sum(draw_mix(20_000))
    table = group_sizes(tokens, np.arange(0, 20_001, 100))
    first, again, other = (windows_of_epoch(table, WINDOWS, epoch) for epoch in (4, 4, 5))
    for a, b in zip(
        (first.groups, first.starts, first.num_packs), (again.groups, again.starts, again.num_packs), strict=True
    ):
        assert a.tolist() == b.tolist()
    assert first.groups.tolist() != other.groups.tolist()
    for index in range(len(first.num_packs)):
        assert (np.diff(first.groups_of(index)) > 0).all()
    kept = windows_of_epoch(table, WindowSettings(seed=3, token_budget=BUDGET, shuffle=False), 4)
    assert kept.groups.tolist() == list(range(200))
    assert len(first.num_packs) > 3


def test_a_row_larger_than_the_budget_is_refused() -> None:
    table = group_sizes(np.array([5, 9, 5]), np.array([0, 1, 3]))
    with pytest.raises(DataError, match=r"token_budget.*at least 9.*row group 1.*is 8"):
        windows_of_epoch(table, WindowSettings(seed=0, token_budget=8), 0)


def test_no_row_and_no_group_give_no_pack() -> None:
    nothing = windows_of_epoch(group_sizes(np.zeros(0, np.int64), np.zeros(1, np.int64)), WINDOWS, 0)
    assert (len(nothing.num_packs), nothing.starts.tolist()) == (0, [0])
    unusable = windows_of_epoch(group_sizes(np.zeros(7, np.int64), np.array([0, 3, 7])), WINDOWS, 0)
    assert unusable.num_packs.tolist() == [0]
    none = np.zeros(0, np.int64)
    assert deal(none, none, none.astype(float), Dealing(num_packs=0, token_budget=8)) == []


def test_packs_of_another_epoch_are_unlike_and_evaluation_keeps_file_order() -> None:
    fields = draw_mix(3000)
    tokens, work, rows = sum(fields), work_of(fields, (24, 12, 6), 6), np.flatnonzero(sum(fields))
    packs = -(-int(tokens.sum()) // int(0.98 * BUDGET))

    def pairs(**settings) -> set[tuple[int, int]]:
        dealing = Dealing(num_packs=packs, token_budget=BUDGET, **settings)
        found = deal(rows, tokens[rows], work[rows], dealing)
        return {(a, b) for pack in found for a in pack.tolist() for b in pack.tolist() if a < b}

    first, second = pairs(epoch=0), pairs(epoch=1)
    assert len(first & second) < 0.1 * len(first)
    for pack in deal(rows, tokens[rows], work[rows], Dealing(num_packs=packs, token_budget=BUDGET, shuffle=False)):
        assert (np.diff(pack) > 0).all()
    assert pairs(shuffle=False, epoch=0) == pairs(shuffle=False, epoch=1)


def test_draws_depend_on_row_and_key_alone_and_are_even() -> None:
    rows = np.random.default_rng(0).permutation(100_000)
    drawn = draw(rows, 7, 2)
    assert draw(rows[:9], 7, 2).tolist() == drawn[:9].tolist()
    assert abs(np.corrcoef(drawn, draw(rows, 7, 3))[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn, draw(rows + 1, 7, 2))[0, 1]) < 0.02
    counts, _ = np.histogram(drawn, 50, (0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 100  # chi-square of 49: 99.998 %
